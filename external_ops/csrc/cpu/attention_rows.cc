#include "attention_rows.h"

namespace llm {

constexpr int64_t kLanes = 16;

LLM_DISPATCHED float finish_scores(float *scores, int64_t begin, int64_t end, float scale,
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

LLM_DISPATCHED float exponentials(float *scores, int64_t keys, int64_t begin, int64_t end,
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

LLM_DISPATCHED void score_gradients(int64_t keys, const float *__restrict p, float correction,
                                    float scale, float *__restrict dp) {
  for (int64_t j = 0; j < keys; ++j) dp[j] = p[j] * (dp[j] - correction) * scale;
}

LLM_DISPATCHED void multiply_row(int64_t count, float factor, float *row) {
  for (int64_t i = 0; i < count; ++i) row[i] *= factor;
}

LLM_DISPATCHED float inner_product(int64_t count, const float *__restrict a,
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

}  // namespace llm
