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
    if (mask->prefix_lengths != nullptr)
      keys.end = std::max(keys.end, std::min(mask->prefix_lengths[sample], length));
    if (mask->document_starts != nullptr)
      keys.begin = std::clamp<int64_t>(mask->document_starts[sample * length + query], 0, query);
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

constexpr int64_t kLanes = 16;

// scores[j] = scores[j] · scale + slope · (j + offset) for seen keys [begin, end); returns the largest.
LLM_INLINE float finish_scores_body(float *scores, int64_t begin, int64_t end, float scale,
                                    float slope, float offset) {
  float lanes[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = -INFINITY;
  const int64_t count = end - begin, whole = count - count % kLanes;
  float *row = scores + begin;
  for (int64_t j = 0; j < whole; j += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float score = row[j + lane] * scale +
                          slope * (static_cast<float>(static_cast<int32_t>(begin + j + lane)) + offset);
      row[j + lane] = score;
      lanes[lane] = score > lanes[lane] ? score : lanes[lane];
    }
  for (int64_t j = whole; j < count; ++j) {
    row[j] = row[j] * scale + slope * (static_cast<float>(static_cast<int32_t>(begin + j)) + offset);
    lanes[j - whole] = row[j] > lanes[j - whole] ? row[j] : lanes[j - whole];
  }
  float largest = lanes[0];
  for (int64_t lane = 1; lane < kLanes; ++lane) largest = std::max(largest, lanes[lane]);
  return largest;
}
constexpr Dispatched<finish_scores_body> finish_scores;

// scores[j] = exp(scores[j] - shift) in [begin, end) and 0 elsewhere in [0, keys); returns their sum.
LLM_INLINE float exponentials_body(float *scores, int64_t keys, int64_t begin, int64_t end,
                                   float shift) {
  float lanes[kLanes] = {};
  for (int64_t j = 0; j < begin; ++j) scores[j] = 0.0f;
  const int64_t count = end - begin, whole = count - count % kLanes;
  float *row = scores + begin;
  for (int64_t j = 0; j < whole; j += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      row[j + lane] = exponential(row[j + lane] - shift);
      lanes[lane] += row[j + lane];
    }
  for (int64_t j = whole; j < count; ++j) {
    row[j] = exponential(row[j] - shift);
    lanes[j - whole] += row[j];
  }
  for (int64_t j = end; j < keys; ++j) scores[j] = 0.0f;
  float sum = 0.0f;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
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
  float lanes[kLanes] = {};
  const int64_t whole = count - count % kLanes;
  for (int64_t i = 0; i < whole; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  for (int64_t i = whole; i < count; ++i) lanes[i - whole] += a[i] * b[i];
  float sum = 0.0f;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
  return sum;
}
constexpr Dispatched<inner_product_body> inner_product;

}  // namespace llm
