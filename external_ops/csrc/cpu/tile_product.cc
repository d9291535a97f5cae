#include "tile_product.h"

#include <omp.h>

#include <algorithm>
#include <atomic>

#include "instructions.h"
#include "product.h"
#include "scratch.h"
#include "tasks.h"
#include "tiles.h"
#include "vector_math.h"

namespace llm {

#ifdef __x86_64__
namespace {

// What is packed at once, for all threads: so many rows of a, columns of b, and in bytes so much of k. Only a
// result in float32 is summed over several spans of k.
constexpr int64_t kRows = 1024, kColumns = 4096, kSpan = 6144;
// A task computes so much of c: a slice of its part of b, and its sums, stay in the second-level cache.
constexpr int64_t kTaskRows = 256, kTaskColumns = 512;
// So many panels are packed by one task.
constexpr int64_t kPanelsAtOnce = 4;

// x from (row, column) on.
Operand part(const Operand &x, int64_t row, int64_t column, llm_dtype dtype) {
  const int64_t place = x.transposed ? column * x.stride + row : row * x.stride + column;
  return {at(x.data, place, dtype), x.stride, x.transposed};
}

template <bool are_rows>
bool pack_all(const Lines &x, const Packed &packed) {
  const int64_t groups = (panels(packed.lines) + kPanelsAtOnce - 1) / kPanelsAtOnce;
  const int64_t slices = (packed.span + packed.slice() - 1) / packed.slice();
  std::atomic<bool> whole{true};
  in_parallel(groups * slices, 0, [&](int64_t task, int) {
    const int64_t start = task / groups * packed.slice(), number = task % groups * kPanelsAtOnce;
    const int64_t count = std::min(kPanelsAtOnce, panels(packed.lines) - number);
    const bool is_whole = are_rows ? pack_rows(x, packed, start, number, count)
                                   : pack_columns(x, packed, start, number, count);
    if (!is_whole) whole = false;
  });
  return whole;
}

// Where results go, from the first row and column of a block on.
struct Result {
  void *c;
  int64_t stride;
  llm_dtype dtype;
  const float *bias;
  bool accumulate;
};

// c = rows `top` to `bottom` of a by columns `left` to `right` of b, counted from the first of the block.
// They begin panels.
void multiply_task(const Packed &a, const Packed &b, int64_t top, int64_t bottom,
                   int64_t left, int64_t right, const Result &result, float *sums) {
  const TilesInUse tiles;
  const int64_t row_panels = panels(bottom - top);
  float *last = sums + row_panels * panels(right - left) * kPanelSums;
  for (int64_t start = 0; start < a.span; start += a.slice()) {
    const bool ends = start + a.slice() >= a.span;
    const int64_t count = a.steps_of(start);
    float *between = sums;
    // Along the rows of c, since it is written as it is computed.
    for (int64_t row = top; row < bottom; row += kPanelLines) {
      const uint16_t *of_a = a.panel(start, row / kPanelLines);
      for (int64_t column = left; column < right; column += kPanelLines, between += kPanelSums) {
        multiply_panels(a.parts, count, of_a, b.panel(start, column / kPanelLines),
                        start == 0 ? nullptr : between, ends ? last : between);
        if (!ends) continue;
        put_sums(std::min(kPanelLines, bottom - row), std::min(kPanelLines, right - column), last,
                 result.bias == nullptr ? nullptr : result.bias + column,
                 at(result.c, row * result.stride + column, result.dtype), result.stride,
                 result.dtype, result.accumulate);
      }
    }
  }
}

void multiply_block(const Packed &a, const Packed &b, const Result &result) {
  // Each thread should get three tasks at least, so that they end together.
  int64_t height = kTaskRows, width = kTaskColumns;
  const auto count = [](int64_t lines, int64_t size) { return (lines + size - 1) / size; };
  while (count(a.lines, height) * count(b.lines, width) < 3 * omp_get_max_threads() &&
         width > kPanelLines) {
    (height > width ? height : width) /= 2;
  }
  const int64_t strips = count(a.lines, height);
  in_parallel(strips * count(b.lines, width), 0, [&](int64_t task, int) {
    thread_local Scratch scratch;
    const int64_t top = task % strips * height, left = task / strips * width;
    const auto [sums] =
        scratch.take<1>({(kTaskRows * kTaskColumns + kPanelSums) * sizeof(float)});
    multiply_task(a, b, top, std::min(top + height, a.lines), left,
                  std::min(left + width, b.lines), result, static_cast<float *>(sums));
  });
}

}  // namespace

bool tiles_are_faster(int64_t m, int64_t n, int64_t k, llm_dtype dtype) {
  // An element of a serves n sums, one of b m, and one of c is put after k: measured, packing and putting
  // cost as much as about 100 of the multiplications by tiles save.
  const int64_t cost = dtype == LLM_FLOAT32 ? 98 : 98;
  return instructions() == Instructions::kAmx && cost * (m * n + n * k + m * k) <= m * n * k;
}

void multiply_on_tiles(int64_t m, int64_t n, int64_t k, const Operand &a, const Operand &b,
                       llm_dtype dtype, const float *bias, void *c, int64_t c_stride,
                       llm_dtype c_dtype, bool accumulate) {
  thread_local Scratch scratch;
  const int64_t parts = dtype == LLM_FLOAT32 ? 3 : 1;
  const int64_t most = c_dtype == LLM_FLOAT32 && !b.packed ? std::min(k, kSpan / parts) : k;
  const int64_t most_columns = b.packed ? n : std::min(n, kColumns);
  const Packed largest_a{std::min(m, kRows), most, parts, nullptr};
  const Packed largest_b{most_columns, most, parts, nullptr};
  const auto [place_a, place_b] =
      scratch.take<2>({largest_a.bytes(), b.packed ? 0 : largest_b.bytes()});
  for (int64_t left = 0; left < n; left += most_columns) {
    const int64_t columns = std::min(most_columns, n - left);
    for (int64_t start = 0; start < k; start += most) {
      const int64_t span = std::min(most, k - start);
      Packed of_b{columns, span, parts, static_cast<uint16_t *>(place_b)};
      bool whole = true;
      if (b.packed) {
        of_b.tiles = static_cast<uint16_t *>(const_cast<void *>(b.data));
      } else {
        whole = pack_all<false>(columns_of(part(b, start, left, dtype), dtype), of_b);
      }
      for (int64_t top = 0; top < m; top += kRows) {
        const Packed of_a{std::min(kRows, m - top), span, parts, static_cast<uint16_t *>(place_a)};
        const Operand rows = part(a, top, start, dtype);
        const Result result{at(c, top * c_stride + left, c_dtype), c_stride, c_dtype,
                            bias == nullptr || start > 0 ? nullptr : bias + left,
                            accumulate || start > 0};
        if (pack_all<true>(rows_of(rows, dtype), of_a) && whole) {
          multiply_block(of_a, of_b, result);
        } else {
          multiply(of_a.lines, columns, span, rows, part(b, start, left, dtype), dtype, result.bias,
                   result.c, c_stride, c_dtype, result.accumulate);
        }
      }
    }
  }
}

int64_t bytes_for_tiles(int64_t n, int64_t k) {
  return static_cast<int64_t>(Packed{n, k, 1, nullptr}.bytes());
}

void pack_for_tiles(int64_t n, int64_t k, const Operand &b, llm_dtype dtype, void *packed) {
  pack_all<false>(columns_of(b, dtype), {n, k, 1, static_cast<uint16_t *>(packed)});
}

#else

bool tiles_are_faster(int64_t, int64_t, int64_t, llm_dtype) { return false; }

void multiply_on_tiles(int64_t m, int64_t n, int64_t k, const Operand &a, const Operand &b,
                       llm_dtype dtype, const float *bias, void *c, int64_t c_stride,
                       llm_dtype c_dtype, bool accumulate) {
  multiply(m, n, k, a, b, dtype, bias, c, c_stride, c_dtype, accumulate);
}

int64_t bytes_for_tiles(int64_t, int64_t) { return 0; }

void pack_for_tiles(int64_t, int64_t, const Operand &, llm_dtype, void *) {}

#endif

}  // namespace llm
