#include "tiles.h"

#include "vector_math.h"

#ifdef __x86_64__

namespace llm {
namespace {

constexpr int kParts = 3;

// 32 numbers as float32: two halves of a line, or the two lines of a pair of k.
template <bool k_is_near>
LLM_INLINE_ON_TILES void load_row(const float *x, int64_t stride, int64_t row, int64_t lines,
                                  int64_t depth, __m512 &left, __m512 &right) {
  left = right = _mm512_setzero_ps();
  if (k_is_near && row < lines) {
    left = _mm512_maskz_loadu_ps(first(depth), x + row * stride);
    if (depth > 16) right = _mm512_maskz_loadu_ps(first(depth - 16), x + row * stride + 16);
  }
  if (!k_is_near && 2 * row < depth) {
    const float *pair = x + 2 * row * stride;
    left = _mm512_maskz_loadu_ps(first(lines), pair);
    if (2 * row + 1 < depth) right = _mm512_maskz_loadu_ps(first(lines), pair + stride);
  }
}

// A tile of one part, or of three, from 16 lines by 32 of k; zero outside `lines` and `depth`. It has a
// row for each pair of k (by_pairs), or for each line. k_is_near: neighbours along k are neighbours in
// memory; else those along the lines.
template <int parts, bool k_is_near, bool by_pairs>
LLM_INLINE_ON_TILES bool pack_tile(const float *x, int64_t stride, int64_t lines, int64_t depth,
                                   uint16_t *tile) {
  bool whole = true;
  __m512i rows[parts][16];
  for (int64_t row = 0; row < 16; ++row) {
    __m512 left, right;
    load_row<k_is_near>(x, stride, row, lines, depth, left, right);
    if (parts > 1) whole &= !is_too_large(left) && !is_too_large(right);
    __m512i of_row[parts];
    in_parts(left, right, of_row);
    for (int part = 0; part < parts; ++part)
      rows[part][row] = k_is_near ? of_row[part] : interleaved(of_row[part]);
  }
  for (int part = 0; part < parts; ++part) {
    if (k_is_near == by_pairs) transpose(rows[part]);
    for (int64_t row = 0; row < 16; ++row)
      _mm512_storeu_si512(tile + part * 2 * kTileSize + row * kTileDepth, rows[part][row]);
  }
  return whole;
}

template <int parts, bool k_is_near, bool by_pairs>
LLM_INLINE_ON_TILES bool pack_tile(const uint16_t *x, int64_t stride, int64_t lines, int64_t depth,
                                   uint16_t *tile) {
  __m512i rows[16];
  for (int64_t row = 0; row < 16; ++row) {
    rows[row] = _mm512_setzero_si512();
    if (k_is_near) {
      if (row < lines) rows[row] = _mm512_maskz_loadu_epi16(first_of_32(depth), x + row * stride);
    } else if (2 * row < depth) {
      const uint16_t *pair = x + 2 * row * stride;
      const __m256i left = _mm256_maskz_loadu_epi16(first(lines), pair);
      const __m256i right = 2 * row + 1 < depth ? _mm256_maskz_loadu_epi16(first(lines), pair + stride)
                                                : _mm256_setzero_si256();
      rows[row] = interleaved(_mm512_inserti64x4(_mm512_castsi256_si512(left), right, 1));
    }
  }
  if (k_is_near == by_pairs) transpose(rows);
  for (int64_t row = 0; row < 16; ++row) _mm512_storeu_si512(tile + row * kTileDepth, rows[row]);
  return true;
}

template <int lines>
LLM_INLINE_ON_TILES void fetch(const uint16_t *x) {
  for (int line = 0; line < lines; ++line)
    _mm_prefetch(reinterpret_cast<const char *>(x + 32 * line), _MM_HINT_T0);
}

template <class T, int parts, bool k_is_near, bool by_pairs>
LLM_ON_TILES bool pack(const Lines &source, const Packed &packed, int64_t start, int64_t number,
                       int64_t count) {
  const int64_t stride = k_is_near ? source.line_stride : source.depth_stride;
  const int64_t whole_steps = packed.steps_of(start), tiles = 2 * count;
  bool whole = true;
  // Along what lies in a row in memory.
  const int64_t inner = k_is_near ? whole_steps : tiles, outer = k_is_near ? tiles : whole_steps;
  for (int64_t i = 0; i < outer; ++i) {
    for (int64_t j = 0; j < inner; ++j) {
      const int64_t tile = k_is_near ? i : j, step = k_is_near ? j : i;
      const int64_t line = number * kPanelLines + tile * kTileLines, depth = start + step * kTileDepth;
      // A last panel's second tile may have no lines; then this isn't read.
      const T *corner = static_cast<const T *>(source.x) + line * source.line_stride +
                        depth * source.depth_stride;
      uint16_t *place = packed.panel(start, number + tile / 2) + step * packed.step_size() +
                        tile % 2 * kTileSize;
      whole &= pack_tile<parts, k_is_near, by_pairs>(corner, stride, packed.lines - line,
                                                     packed.span - depth, place);
    }
  }
  return whole;
}

template <bool by_pairs>
bool pack_any(const Lines &x, const Packed &packed, int64_t start, int64_t number, int64_t count) {
  const bool k_is_near = x.depth_stride == 1;
  if (x.dtype == LLM_BFLOAT16) {
    return k_is_near ? pack<uint16_t, 1, true, by_pairs>(x, packed, start, number, count)
                     : pack<uint16_t, 1, false, by_pairs>(x, packed, start, number, count);
  }
  if (packed.parts == 1) {
    return k_is_near ? pack<float, 1, true, by_pairs>(x, packed, start, number, count)
                     : pack<float, 1, false, by_pairs>(x, packed, start, number, count);
  }
  return k_is_near ? pack<float, kParts, true, by_pairs>(x, packed, start, number, count)
                   : pack<float, kParts, false, by_pairs>(x, packed, start, number, count);
}

}  // namespace

Lines rows_of(const Operand &a, llm_dtype dtype) {
  return {a.data, a.transposed ? 1 : a.stride, a.transposed ? a.stride : 1, dtype};
}

Lines columns_of(const Operand &b, llm_dtype dtype) {
  return {b.data, b.transposed ? b.stride : 1, b.transposed ? 1 : b.stride, dtype};
}

bool pack_rows(const Lines &a, const Packed &packed, int64_t start, int64_t number, int64_t count) {
  return pack_any<false>(a, packed, start, number, count);
}

bool pack_columns(const Lines &b, const Packed &packed, int64_t start, int64_t number,
                  int64_t count) {
  return pack_any<true>(b, packed, start, number, count);
}

LLM_ON_TILES void multiply_panels(int64_t parts, int64_t steps, const uint16_t *a, const uint16_t *b,
                                  const uint16_t *ahead, const float *before, float *sums) {
  LLM_TILES_MEET_MEMORY;
  if (before == nullptr) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, before, kTileRow);
    _tile_loadd(1, before + kSumsSize, kTileRow);
    _tile_loadd(2, before + 2 * kSumsSize, kTileRow);
    _tile_loadd(3, before + 3 * kSumsSize, kTileRow);
  }
#define LLM_TAKE_A(part)                               \
  _tile_loadd(4, a + 2 * (part) * kTileSize, kTileRow); \
  _tile_loadd(5, a + (2 * (part) + 1) * kTileSize, kTileRow)
#define LLM_TAKE_B(part)                               \
  _tile_loadd(6, b + 2 * (part) * kTileSize, kTileRow); \
  _tile_loadd(7, b + (2 * (part) + 1) * kTileSize, kTileRow)
#define LLM_MULTIPLY_AND_FETCH(next, lines)  \
  fetch<lines>(next);                       \
  _tile_dpbf16ps(0, 4, 6);                  \
  fetch<lines>((next) + (lines) * 32);      \
  _tile_dpbf16ps(1, 4, 7);                  \
  fetch<lines>((next) + 2 * (lines) * 32);  \
  _tile_dpbf16ps(2, 5, 6);                  \
  fetch<lines>((next) + 3 * (lines) * 32);  \
  _tile_dpbf16ps(3, 5, 7)
  const int64_t step_size = parts * 2 * kTileSize;
  if (parts == 1) {
    for (int64_t step = 0; step < steps; ++step, a += step_size, b += step_size, ahead += step_size) {
      LLM_TAKE_A(0);
      LLM_TAKE_B(0);
      LLM_MULTIPLY_AND_FETCH(ahead, 8);
    }
  } else {
    constexpr int64_t kSixth = kTileSize;
    for (int64_t step = 0; step < steps; ++step, a += step_size, b += step_size, ahead += step_size) {
      LLM_TAKE_A(0);
      LLM_TAKE_B(2);
      LLM_MULTIPLY_AND_FETCH(ahead, 4);
      LLM_TAKE_B(1);
      LLM_MULTIPLY_AND_FETCH(ahead + kSixth, 4);
      LLM_TAKE_A(1);
      LLM_MULTIPLY_AND_FETCH(ahead + 2 * kSixth, 4);
      LLM_TAKE_B(0);
      LLM_MULTIPLY_AND_FETCH(ahead + 3 * kSixth, 4);
      LLM_TAKE_A(2);
      LLM_MULTIPLY_AND_FETCH(ahead + 4 * kSixth, 4);
      LLM_TAKE_A(0);
      LLM_MULTIPLY_AND_FETCH(ahead + 5 * kSixth, 4);
    }
  }
#undef LLM_MULTIPLY_AND_FETCH
#undef LLM_TAKE_A
#undef LLM_TAKE_B
  _tile_stored(0, sums, kTileRow);
  _tile_stored(1, sums + kSumsSize, kTileRow);
  _tile_stored(2, sums + 2 * kSumsSize, kTileRow);
  _tile_stored(3, sums + 3 * kSumsSize, kTileRow);
  LLM_TILES_MEET_MEMORY;
}

LLM_ON_TILES void put_sums(int64_t rows, int64_t columns, const float *sums, const float *bias,
                           void *c, int64_t stride, llm_dtype dtype, bool accumulate) {
  const __mmask16 inside[2] = {first(columns), first(columns - 16)};
  const __m512 zero = _mm512_setzero_ps();
  const __m512 shift[2] = {
      bias == nullptr ? zero : _mm512_maskz_loadu_ps(inside[0], bias),
      bias == nullptr || columns <= 16 ? zero : _mm512_maskz_loadu_ps(inside[1], bias + 16)};
  for (int64_t row = 0; row < rows; ++row) {
    const float *of_row = sums + row / kTileLines * 2 * kSumsSize + row % kTileLines * kTileLines;
    __m512 sum[2] = {_mm512_add_ps(_mm512_load_ps(of_row), shift[0]),
                     _mm512_add_ps(_mm512_load_ps(of_row + kSumsSize), shift[1])};
    if (dtype == LLM_FLOAT32) {
      float *target = static_cast<float *>(c) + row * stride;
      for (int half = 0; half < 2; ++half) {
        if (!inside[half]) continue;
        if (accumulate)
          sum[half] = _mm512_add_ps(sum[half], _mm512_maskz_loadu_ps(inside[half], target + 16 * half));
        _mm512_mask_storeu_ps(target + 16 * half, inside[half], sum[half]);
      }
      continue;
    }
    uint16_t *target = static_cast<uint16_t *>(c) + row * stride;
    if (accumulate) {
      for (int half = 0; half < 2; ++half) {
        if (!inside[half]) continue;
        const __m256i kept = _mm256_maskz_loadu_epi16(inside[half], target + 16 * half);
        sum[half] = _mm512_add_ps(
            sum[half], _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(kept), 16)));
      }
    }
    _mm512_mask_storeu_epi16(target, first_of_32(columns), rounded(sum[0], sum[1]));
  }
}

}  // namespace llm
#endif
