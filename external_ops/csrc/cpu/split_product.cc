#include "split_product.h"

#include <omp.h>

#include <algorithm>

#include "instructions.h"
#include "product.h"
#include "scratch.h"
#include "tasks.h"
#include "tiles.h"

namespace llm {

#ifdef __x86_64__
namespace {

// A block of a, packed once for all threads, has at most this much of k and so many rows.
constexpr int64_t kSpan = 1024, kRows = 1024;
// A task computes so much of c. For kDepth of k at a time, its part of a, columns of b and sums stay in
// the second-level cache (1.1 MiB), and a panel of b in the first (24 KiB).
constexpr int64_t kTaskRows = 512, kTaskColumns = 256, kDepth = 128;

// x from (row, column) on.
Operand part(const Operand &x, int64_t row, int64_t column) {
  const int64_t place = x.transposed ? column * x.stride + row : row * x.stride + column;
  return {static_cast<const float *>(x.data) + place, x.stride, x.transposed};
}

Lines rows_of(const Operand &a) {
  return {static_cast<const float *>(a.data), a.transposed ? 1 : a.stride, a.transposed ? a.stride : 1};
}

Lines columns_of(const Operand &b) {
  return {static_cast<const float *>(b.data), b.transposed ? b.stride : 1, b.transposed ? 1 : b.stride};
}

// Bytes of panels.
size_t packed_size(int64_t lines, int64_t span) {
  return panels(lines) * steps(span) * kStepSize * sizeof(uint16_t);
}

// A block of a, packed: for each kDepth of k, its panels one after another.
struct Block {
  int64_t rows, span;
  uint16_t *packed;
  bool whole;  // no number is too large for tiles

  uint16_t *panel(int64_t depth, int64_t row_panel) const {
    const int64_t within = steps(std::min(kDepth, span - depth));
    return packed + (steps(depth) * panels(rows) + row_panel * within) * kStepSize;
  }
};

Block pack_block(const Operand &a, int64_t rows, int64_t span, uint16_t *packed) {
  Block block{rows, span, packed, true};
  bool whole = true;
#pragma omp parallel for reduction(&& : whole) schedule(static)
  for (int64_t panel = 0; panel < panels(rows); ++panel) {
    const int64_t row = panel * kPanelLines, lines = std::min(kPanelLines, rows - row);
    for (int64_t depth = 0; depth < span; depth += kDepth) {
      const int64_t within = std::min(kDepth, span - depth);
      whole = pack_rows(rows_of(part(a, row, depth)), lines, within, block.panel(depth, panel)) && whole;
    }
  }
  block.whole = whole;
  return block;
}

// sums = rows `top` to `top` + `rows` of a block, by columns of b. False if b has numbers that are too large.
bool multiply_block(const Block &a, int64_t top, int64_t rows, const Operand &b, int64_t columns,
                    uint16_t *packed, float *sums) {
  const int64_t row_panels = panels(rows), column_panels = panels(columns);
  bool whole = true;
  begin_tiles();
  for (int64_t depth = 0; depth < a.span; depth += kDepth) {
    const int64_t within = std::min(kDepth, a.span - depth), size = steps(within) * kStepSize;
    whole &= pack_columns(columns_of(part(b, depth, 0)), columns, within, packed);
    const uint16_t *left = a.panel(depth, top / kPanelLines);
    for (int64_t column = 0; column < column_panels; ++column) {
      for (int64_t row = 0; row < row_panels; ++row) {
        multiply_panels(steps(within), left + row * size, packed + column * size, depth == 0,
                        sums + (column * row_panels + row) * kSumsSize);
      }
    }
  }
  end_tiles();
  return whole;
}

}  // namespace

bool tiles_are_faster(int64_t m, int64_t n, int64_t k) {
  // An element of a serves n sums, one of b m, and one of c is put after k: measured, packing and putting
  // cost as much as about 100 of the multiplications by tiles save.
  return instructions() == Instructions::kAmx && 98 * (m * n + n * k + m * k) <= m * n * k;
}

void multiply_split(int64_t m, int64_t n, int64_t k, const Operand &a, const Operand &b,
                    const float *bias, float *c, int64_t c_stride, bool accumulate) {
  thread_local Scratch for_block;
  const auto [packed_a] = for_block.take<1>({packed_size(std::min(m, kRows), std::min(k, kSpan))});
  const int64_t threads = omp_get_max_threads(), share = (n + threads - 1) / threads;
  const int64_t width = std::min(kTaskColumns, panels(share) * kPanelLines);
  const int64_t chunks = (n + width - 1) / width;
  for (int64_t start = 0; start < k; start += kSpan) {
    const int64_t span = std::min(kSpan, k - start);
    const bool adds = accumulate || start > 0;
    for (int64_t top = 0; top < m; top += kRows) {
      const Block block = pack_block(part(a, top, start), std::min(kRows, m - top), span,
                                     static_cast<uint16_t *>(packed_a));
      const int64_t strips = (block.rows + kTaskRows - 1) / kTaskRows;
      in_parallel(strips * chunks, 0, [&](int64_t task, int) {
        thread_local Scratch for_task;
        const int64_t row = task % strips * kTaskRows, column = task / strips * width;
        const int64_t rows = std::min(kTaskRows, block.rows - row);
        const int64_t columns = std::min(width, n - column);
        const auto [packed_place, sums_place] = for_task.take<2>(
            {packed_size(kTaskColumns, kDepth), kTaskRows * kTaskColumns * sizeof(float)});
        auto *packed_b = static_cast<uint16_t *>(packed_place);
        auto *sums = static_cast<float *>(sums_place);
        const Operand right = part(b, start, column);
        const float *shift = bias == nullptr || start > 0 ? nullptr : bias + column;
        float *target = c + (top + row) * c_stride + column;
        if (block.whole && multiply_block(block, row, rows, right, columns, packed_b, sums)) {
          put_sums(rows, columns, sums, shift, target, c_stride, adds);
        } else {
          multiply(rows, columns, span, part(a, top + row, start), right, LLM_FLOAT32, shift, target,
                   c_stride, LLM_FLOAT32, adds);
        }
      });
    }
  }
}

#else

bool tiles_are_faster(int64_t, int64_t, int64_t) { return false; }

void multiply_split(int64_t m, int64_t n, int64_t k, const Operand &a, const Operand &b,
                    const float *bias, float *c, int64_t c_stride, bool accumulate) {
  multiply(m, n, k, a, b, LLM_FLOAT32, bias, c, c_stride, LLM_FLOAT32, accumulate);
}

#endif

}  // namespace llm
