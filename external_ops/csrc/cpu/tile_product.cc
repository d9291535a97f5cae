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

// A block of a, packed once for all threads, has at most so many rows, and so much of k over all parts. Only
// a result in float32 is summed over several spans of k.
constexpr int64_t kRows = 1536, kSpan = 6144;
// A task computes at most so much of c: a slice of its columns of b and its sums stay in the second-level
// cache, 1 MiB. It packs those columns itself: what another thread has packed comes from further away.
constexpr int64_t kTaskRows = 768, kTaskColumns = 256;
// So many panels of a are packed at once.
constexpr int64_t kPanelsAtOnce = 4;

// x from (row, column) on.
Operand part(const Operand &x, int64_t row, int64_t column, llm_dtype dtype) {
  const int64_t place = x.transposed ? column * x.stride + row : row * x.stride + column;
  return {at(x.data, place, dtype), x.stride, x.transposed};
}

int64_t quotient_up(int64_t x, int64_t by) { return (x + by - 1) / by; }

// Packs all of an operand, by all threads.
template <class Pack>
bool pack_all(Pack pack, const Lines &x, const Packed &packed) {
  const int64_t groups = quotient_up(panels(packed.lines), kPanelsAtOnce);
  std::atomic<bool> whole{true};
  in_parallel(groups * quotient_up(packed.span, packed.slice()), 0, [&](int64_t task, int) {
    const int64_t start = task / groups * packed.slice(), number = task % groups * kPanelsAtOnce;
    if (!pack(x, packed, start, number, std::min(kPanelsAtOnce, panels(packed.lines) - number)))
      whole = false;
  });
  return whole;
}

// What all tasks of a block have in common. b and c begin where the block's part of them does; of a packed b
// `columns` has the tiles.
struct Block {
  Packed rows;
  Operand b;
  llm_dtype dtype;
  Packed columns;
  void *c;
  int64_t stride;
  llm_dtype c_dtype;
  const float *bias;
  bool accumulate;
};

// c = rows [top, bottom) of a by columns [left, right) of b; both begin panels. False if b has numbers that
// are too large for tiles.
bool multiply_task(const Block &block, int64_t top, int64_t bottom, int64_t left, int64_t right) {
  const Packed &a = block.rows;
  const int64_t row_panels = panels(bottom - top), column_panels = panels(right - left);
  Packed mine{right - left, a.slice(), a.parts, nullptr};
  thread_local Scratch scratch;
  const auto [place, between, last] =
      scratch.take<3>({mine.bytes(), row_panels * column_panels * kPanelSums * sizeof(float),
                       kPanelSums * sizeof(float)});
  const int64_t ahead = (a.parts == 1 ? 2 : 1) * a.step_size();
  const TilesInUse tiles;
  for (int64_t start = 0; start < a.span; start += a.slice()) {
    const bool ends = start + a.slice() >= a.span;
    const int64_t count = a.steps_of(start);
    const uint16_t *of_b = block.columns.panel(start, left / kPanelLines);
    if (!block.b.packed) {
      mine = {right - left, std::min(a.slice(), a.span - start), a.parts, static_cast<uint16_t *>(place)};
      const Operand columns = part(block.b, start, left, block.dtype);
      if (!pack_columns(columns_of(columns, block.dtype), mine, 0, 0, column_panels)) return false;
      of_b = mine.tiles;
    }
    auto *sums = static_cast<float *>(between);
    // Along the rows of c, since it is written as it is computed.
    for (int64_t row = top; row < bottom; row += kPanelLines) {
      const uint16_t *of_a = a.panel(start, row / kPanelLines);
      for (int64_t i = 0; i < column_panels; ++i, sums += kPanelSums) {
        const int64_t column = left + i * kPanelLines;
        auto *target = ends ? static_cast<float *>(last) : sums;
        const uint16_t *panel = of_b + i * count * a.step_size();
        multiply_panels(a.parts, count, of_a, panel, panel + ahead, start == 0 ? nullptr : sums, target);
        if (!ends) continue;
        put_sums(std::min(kPanelLines, bottom - row), std::min(kPanelLines, right - column), target,
                 block.bias == nullptr ? nullptr : block.bias + column,
                 at(block.c, row * block.stride + column, block.c_dtype), block.stride, block.c_dtype,
                 block.accumulate);
      }
    }
  }
  return true;
}

// c = a block of a, as it lies in memory, by n columns of b.
void multiply_block(const Block &block, const Operand &a, int64_t n) {
  const int64_t m = block.rows.lines, span = block.rows.span, threads = omp_get_max_threads();
  const int64_t strips = quotient_up(m, kTaskRows);
  const int64_t height = panels(quotient_up(m, strips)) * kPanelLines;
  // Where tasks are few each thread gets as many.
  int64_t chunks = quotient_up(n, kTaskColumns);
  while (strips * chunks < 4 * threads && strips * chunks % threads != 0 && chunks < panels(n)) ++chunks;
  const int64_t width = panels(quotient_up(n, chunks)) * kPanelLines;
  in_parallel(strips * quotient_up(n, width), 0, [&](int64_t task, int) {
    const int64_t top = task % strips * height, bottom = std::min(top + height, m);
    const int64_t left = task / strips * width, right = std::min(left + width, n);
    if (top >= bottom || multiply_task(block, top, bottom, left, right)) return;
    multiply(bottom - top, right - left, span, part(a, top, 0, block.dtype),
             part(block.b, 0, left, block.dtype), block.dtype,
             block.bias == nullptr ? nullptr : block.bias + left,
             at(block.c, top * block.stride + left, block.c_dtype), block.stride, block.c_dtype,
             block.accumulate);
  });
}

}  // namespace

bool tiles_are_faster(int64_t m, int64_t n, int64_t k) {
  // An element of a serves n sums, one of b m, and one of c is put after k: measured in float32, packing and
  // putting cost as much as about 100 of the multiplications by tiles save.
  return instructions() == Instructions::kAmx && 98 * (m * n + n * k + m * k) <= m * n * k;
}

void multiply_on_tiles(int64_t m, int64_t n, int64_t k, const Operand &a, const Operand &b,
                       llm_dtype dtype, const float *bias, void *c, int64_t c_stride,
                       llm_dtype c_dtype, bool accumulate) {
  thread_local Scratch scratch;
  const int64_t parts = dtype == LLM_FLOAT32 ? 3 : 1;
  const int64_t most = c_dtype == LLM_FLOAT32 && !b.packed ? std::min(k, kSpan / parts) : k;
  const auto [place] = scratch.take<1>({Packed{std::min(m, kRows), most, parts, nullptr}.bytes()});
  const Packed columns{n, k, parts, static_cast<uint16_t *>(const_cast<void *>(b.packed ? b.data : nullptr))};
  for (int64_t start = 0; start < k; start += most) {
    const int64_t span = std::min(most, k - start);
    for (int64_t top = 0; top < m; top += kRows) {
      const Packed packed{std::min(kRows, m - top), span, parts, static_cast<uint16_t *>(place)};
      const Operand rows = part(a, top, start, dtype);
      const Operand of_b = b.packed ? b : part(b, start, 0, dtype);
      const Block block{packed, of_b, dtype, columns, at(c, top * c_stride, c_dtype), c_stride, c_dtype,
                        start > 0 ? nullptr : bias, accumulate || start > 0};
      if (pack_all(pack_rows, rows_of(rows, dtype), packed)) {
        multiply_block(block, rows, n);
      } else {
        multiply(packed.lines, n, span, rows, of_b, dtype, block.bias, block.c, c_stride, c_dtype,
                 block.accumulate);
      }
    }
  }
}

int64_t bytes_for_tiles(int64_t n, int64_t k) {
  return static_cast<int64_t>(Packed{n, k, 1, nullptr}.bytes());
}

void pack_for_tiles(int64_t n, int64_t k, const Operand &b, llm_dtype dtype, void *packed) {
  pack_all(pack_columns, columns_of(b, dtype), {n, k, 1, static_cast<uint16_t *>(packed)});
}

#else

bool tiles_are_faster(int64_t, int64_t, int64_t) { return false; }

void multiply_on_tiles(int64_t m, int64_t n, int64_t k, const Operand &a, const Operand &b,
                       llm_dtype dtype, const float *bias, void *c, int64_t c_stride,
                       llm_dtype c_dtype, bool accumulate) {
  multiply(m, n, k, a, b, dtype, bias, c, c_stride, c_dtype, accumulate);
}

int64_t bytes_for_tiles(int64_t, int64_t) { return 0; }

void pack_for_tiles(int64_t, int64_t, const Operand &, llm_dtype, void *) {}

#endif

}  // namespace llm
