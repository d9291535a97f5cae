// What a row of attention scores sees, and its softmax, block by block of keys.
#pragma once
#include <algorithm>
#include <vector>

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

  Visible visible(int64_t sample, int64_t query) const {
    Visible keys{0, query + 1};
    const int64_t place = sample * length + query;
    if (mask->prefix_ends != nullptr)
      keys.end = std::max(keys.end, std::min(mask->prefix_ends[place], length));
    if (mask->document_starts != nullptr)
      keys.begin = std::clamp<int64_t>(mask->document_starts[place], 0, query);
    return keys;
  }

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

// scores[j] = scores[j] · scale + slope · (j + offset) for seen keys [begin, end); returns the largest.
LLM_INLINE float finish_scores_body(float *scores, int64_t begin, int64_t end, float scale,
                                    float slope, float offset) {
  float largest = -INFINITY;
#pragma omp simd reduction(max : largest)
  for (int64_t j = begin; j < end; ++j) {
    const float distance = static_cast<float>(static_cast<int32_t>(j)) + offset;
    const float score = scores[j] * scale + slope * distance;
    scores[j] = score;
    largest = score > largest ? score : largest;
  }
  return largest;
}
constexpr Dispatched<finish_scores_body> finish_scores;

// scores[j] = exp(scores[j] - shift) in [begin, end) and 0 elsewhere in [0, keys); returns their sum.
LLM_INLINE float exponentials_body(float *scores, int64_t keys, int64_t begin, int64_t end,
                                   float shift) {
  for (int64_t j = 0; j < begin; ++j) scores[j] = 0.0f;
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = begin; j < end; ++j) {
    scores[j] = exponential(scores[j] - shift);
    sum += scores[j];
  }
  for (int64_t j = end; j < keys; ++j) scores[j] = 0.0f;
  return sum;
}
constexpr Dispatched<exponentials_body> exponentials;

// ds[j] = p[j] · (dp[j] - correction) · scale
LLM_INLINE void score_gradients_body(int64_t keys, const float *__restrict p, float correction,
                                     float scale, float *__restrict dp) {
  for (int64_t j = 0; j < keys; ++j) dp[j] = p[j] * (dp[j] - correction) * scale;
}
constexpr Dispatched<score_gradients_body> score_gradients;

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
