// What a row of attention scores sees, and its softmax, block by block of keys.
#pragma once
#include <algorithm>
#include <vector>

#include "status.h"
#include "vector_math.h"

namespace llm {

// The keys [begin, end) that a query sees: every mask is one such range per query.
struct Visible {
  int64_t begin, end;
};

// Shapes of one call, and what positions see.
struct Attention {
  int64_t batch, length, heads, key_heads, size;
  llm_dtype dtype;
  const llm_mask *mask;
  float scale;

  Attention(int64_t batch_, int64_t length_, int64_t heads_, int64_t key_heads_, int64_t size_,
            llm_dtype dtype_, const llm_mask *mask_)
      : batch(batch_), length(length_), heads(heads_), key_heads(key_heads_), size(size_),
        dtype(dtype_), mask(mask_), scale(1.0f / std::sqrt(static_cast<float>(size_))) {
    require(batch >= 0 && length >= 0 && length <= INT32_MAX, "a size that is no length");
    require(heads > 0 && key_heads > 0 && size > 0 && heads % key_heads == 0,
            "the key heads must divide the query heads");
    require(mask != nullptr, "no mask");
  }

  Visible visible(int64_t sample, int64_t query) const {
    Visible keys{0, query + 1};
    const int64_t place = sample * length + query;
    if (mask->prefix_ends != nullptr)
      keys.end = std::max(keys.end, std::min(mask->prefix_ends[place], length));
    if (mask->document_starts != nullptr)
      keys.begin = std::clamp<int64_t>(mask->document_starts[place], 0, query);
    return keys;
  }

  // The range of keys that some query of [first, first + count) sees.
  Visible visible_to_any(int64_t sample, int64_t first, int64_t count) const {
    Visible all = visible(sample, first);
    for (int64_t query = first + 1; query < first + count; ++query) {
      const Visible keys = visible(sample, query);
      all.begin = std::min(all.begin, keys.begin);
      all.end = std::max(all.end, keys.end);
    }
    return all;
  }

  // Of a transposed head. A power of two would put its rows into the same places of the cache.
  int64_t turned_stride() const { return length + 16; }

  float slope(int64_t head) const { return mask->slopes == nullptr ? 0.0f : mask->slopes[head]; }

  // Where a head's rows begin, and how far they are apart.
  int64_t query_offset(int64_t sample, int64_t head) const {
    return (sample * length * heads + head) * size;
  }
  int64_t key_offset(int64_t sample, int64_t head) const {
    return (sample * length * key_heads + head) * size;
  }
};

// Most queries and keys of a block: its scores stay in the second-level cache.
constexpr int64_t kQueries = 128, kKeys = 256;

// What a block's products become: scores[j] · scale + slope · (j + offset).
struct Scores {
  float scale, slope, offset;

  __attribute__((always_inline)) float of(const float *products, int64_t j) const {
    return products[j] * scale + slope * (static_cast<float>(static_cast<int32_t>(j)) + offset);
  }
};

// The largest score of seen keys [begin, end).
LLM_INLINE float largest_score_body(const float *products, int64_t begin, int64_t end,
                                    Scores scores) {
  float largest = -INFINITY;
#pragma omp simd reduction(max : largest)
  for (int64_t j = begin; j < end; ++j) {
    const float score = scores.of(products, j);
    largest = score > largest ? score : largest;
  }
  return largest;
}
constexpr Dispatched<largest_score_body> largest_score;

// products[j] = exp(score - shift) in [begin, end) and 0 elsewhere in [0, keys); returns their sum.
LLM_INLINE float exponentials_body(float *products, int64_t keys, int64_t begin, int64_t end,
                                   Scores scores, float shift) {
  for (int64_t j = 0; j < begin; ++j) products[j] = 0.0f;
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = begin; j < end; ++j) {
    products[j] = exponential(scores.of(products, j) - shift);
    sum += products[j];
  }
  for (int64_t j = end; j < keys; ++j) products[j] = 0.0f;
  return sum;
}
constexpr Dispatched<exponentials_body> exponentials;

LLM_INLINE void multiply_row_body(int64_t count, float factor, float *row) {
  for (int64_t i = 0; i < count; ++i) row[i] *= factor;
}
constexpr Dispatched<multiply_row_body> multiply_row;

LLM_INLINE float inner_product_body(int64_t count, const float *__restrict a,
                                    const float *__restrict b) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}
constexpr Dispatched<inner_product_body> inner_product;

}  // namespace llm
