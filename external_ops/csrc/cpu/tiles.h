// Operands of products on matrix tiles, packed, and the product of two panels of them.
//
// Tiles multiply bfloat16. A float32 is the sum of three parts in bfloat16, of 8 bits each. Of the nine
// products of the parts of two numbers the three smallest are left out, together 2^-27 of the whole in the
// mean and 2^-23 at most; float32 rounds every sum by up to 2^-24, and there are fewer sums here. Tiles take
// numbers below 2^-126 for zero, parts and sums alike: products below 2^-100 lose lower bits.
#pragma once
#include <algorithm>
#include <cstddef>

#include "matmul.h"
#include "tile_instructions.h"

#ifdef __x86_64__
namespace llm {

// Lines are rows of a or columns of b. A panel of 32 lines is two tiles wide, for each part.
constexpr int64_t kPanelLines = 2 * kTileLines;
constexpr int64_t kPanelSums = 4 * kSumsSize;

inline int64_t panels(int64_t lines) { return (lines + kPanelLines - 1) / kPanelLines; }
inline int64_t steps(int64_t span) { return (span + kTileDepth - 1) / kTileDepth; }

// What is packed: x[line * line_stride + i * depth_stride], where one of the strides is 1.
struct Lines {
  const void *x;
  int64_t line_stride, depth_stride;
  llm_dtype dtype;
};

Lines rows_of(const Operand &a, llm_dtype dtype);
Lines columns_of(const Operand &b, llm_dtype dtype);

// An operand of `lines` lines by `span` of k in tiles, each number in `parts` parts, zeros at the edges: for
// each slice along k its panels one after another, of a panel its steps.
struct Packed {
  int64_t lines, span, parts;
  uint16_t *tiles;

  // A panel of one slice stays in the first-level cache: 16 KiB, or 24 of three parts.
  int64_t slice() const { return parts == 1 ? 256 : 128; }
  int64_t step_size() const { return parts * 2 * kTileSize; }
  int64_t steps_of(int64_t start) const { return steps(std::min(slice(), span - start)); }
  uint16_t *panel(int64_t start, int64_t number) const {
    return tiles + (steps(start) * panels(lines) + number * steps_of(start)) * step_size();
  }
  size_t bytes() const { return panels(lines) * steps(span) * step_size() * sizeof(uint16_t); }
};

// Packs the slice from `start` on of `count` panels from `number` on. False if some number in three parts
// isn't below 2^63 in size, or is none.
bool pack_rows(const Lines &a, const Packed &packed, int64_t start, int64_t number, int64_t count);
bool pack_columns(const Lines &b, const Packed &packed, int64_t start, int64_t number, int64_t count);

// sums, four tiles, are `before` (zero if it is NULL) and the product of a panel of a by one of b. On the way as
// much as a panel has is fetched from `ahead` on: a tile's own loads come too late where it is far, since few of
// them can be under way.
void multiply_panels(int64_t parts, int64_t steps, const uint16_t *a, const uint16_t *b,
                     const uint16_t *ahead, const float *before, float *sums);

// c [rows, columns] = the sums of a panel (+ bias) (+ c).
void put_sums(int64_t rows, int64_t columns, const float *sums, const float *bias, void *c,
              int64_t stride, llm_dtype dtype, bool accumulate);

}  // namespace llm
#endif
