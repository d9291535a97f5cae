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

// scores[j] = scores[j] · scale + slope · (j + offset) for seen keys [begin, end); returns the largest.
float finish_scores(float *scores, int64_t begin, int64_t end, float scale, float slope,
                    float offset);
// scores[j] = exp(scores[j] - shift) in [begin, end) and 0 elsewhere in [0, keys); returns their sum.
float exponentials(float *scores, int64_t keys, int64_t begin, int64_t end, float shift);
// ds[j] = p[j] · (dp[j] - correction) · scale
void score_gradients(int64_t keys, const float *p, float correction, float scale, float *dp);
void multiply_row(int64_t count, float factor, float *row);
float inner_product(int64_t count, const float *a, const float *b);

}  // namespace llm
