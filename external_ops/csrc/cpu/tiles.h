// Products of float32 on a processor's matrix tiles (Intel AMX), which multiply bfloat16 only.
//
// A float32 is the sum of three parts in bfloat16, of 8 bits each. Of the nine products of the parts of
// two numbers the three smallest are left out, together 2^-27 of the whole in the mean and 2^-23 at most;
// float32 rounds every sum by up to 2^-24, and there are fewer sums here. Tiles take numbers below 2^-126
// for zero, parts and sums alike: products below 2^-100 lose lower bits.
#pragma once
#include <cstdint>

namespace llm {

// Lines are rows of a or columns of b. A panel of 32 lines and 32 steps along k is what four tiles of
// sums need at once: two tiles of 16 lines for each part.
constexpr int64_t kTileLines = 16, kPanelLines = 2 * kTileLines, kStepDepth = 32;
constexpr int64_t kTileSize = kTileLines * kStepDepth;      // in bfloat16
constexpr int64_t kStepSize = 3 * 2 * kTileSize;            // of a panel
constexpr int64_t kSumsSize = kPanelLines * kPanelLines;    // in float32

inline int64_t panels(int64_t lines) { return (lines + kPanelLines - 1) / kPanelLines; }
inline int64_t steps(int64_t span) { return (span + kStepDepth - 1) / kStepDepth; }

// What is split: x[line * line_stride + i * depth_stride], where one of the strides is 1.
struct Lines {
  const float *x;
  int64_t line_stride, depth_stride;
};

// Packs `lines` lines by `span` of k as panels, one after another, each step by step, padded with zeros.
// False if some number isn't below 2^63 in size, or is none.
bool pack_rows(const Lines &a, int64_t lines, int64_t span, uint16_t *packed);
bool pack_columns(const Lines &b, int64_t lines, int64_t span, uint16_t *packed);

// Between these a thread may call multiply_panels.
void begin_tiles();
void end_tiles();

// sums, four tiles, become a panel of a times one of b, or grow by that unless they are fresh.
void multiply_panels(int64_t steps, const uint16_t *a, const uint16_t *b, bool fresh, float *sums);

// c [rows, columns] = sums (+ bias) (+ c), where the sums of panels of a lie one after another for each
// panel of b.
void put_sums(int64_t rows, int64_t columns, const float *sums, const float *bias, float *c,
              int64_t stride, bool accumulate);

}  // namespace llm
