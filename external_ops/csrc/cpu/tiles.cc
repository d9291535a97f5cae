#include "tiles.h"

#ifdef __x86_64__
#include <immintrin.h>

#define LLM_ON_TILES __attribute__((target("arch=x86-64-v4,amx-tile,amx-bf16")))
#define LLM_INLINE_ON_TILES static inline __attribute__((always_inline)) LLM_ON_TILES

namespace llm {
namespace {

constexpr int kParts = 3;

LLM_INLINE_ON_TILES __mmask16 first(int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xFFFF : count <= 0 ? 0 : (1 << count) - 1);
}

// Whether some number in x is not below 2^63: parts are rounded, and where a product only just has room
// in float32, that of the parts may have none.
LLM_INLINE_ON_TILES bool is_too_large(__m512 x) {
  const __m512i size = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7FFFFFFF));
  return _mm512_cmp_epu32_mask(size, _mm512_set1_epi32(0x5F000000), _MM_CMPINT_NLT) != 0;
}

// Takes x's highest part from it, in the upper halves of float32: what is left is exact.
LLM_INLINE_ON_TILES __m512i take_part(__m512 &x) {
  const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32(0xFFFF0000);
  const __m512i part = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), half), upper);
  x = _mm512_sub_ps(x, _mm512_castsi512_ps(part));
  return part;
}

LLM_INLINE_ON_TILES void transpose(__m512i (&x)[16]) {
  __m512i y[16];
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    y[i] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
    y[i + 4] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xDD);
    y[i + 8] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
    y[i + 12] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xDD);
  }
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0x88);
    x[i + 4] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0x88);
    x[i + 8] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0xDD);
    x[i + 12] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0xDD);
  }
}

// The parts of 16 lines by 32 of k, zero outside `lines` and `depth`: a tile of each, which has a row
// for each pair of k (by_pairs), or for each line. k_is_near: neighbours along k are neighbours in
// memory; else those along the lines.
template <bool k_is_near, bool by_pairs>
LLM_INLINE_ON_TILES bool pack_tile(const float *x, int64_t stride, int64_t lines, int64_t depth,
                                   uint16_t *tile) {
  const __m512i upper_halves =
      _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25,
                       23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  bool whole = true;
  __m512i parts[kParts][16];
  for (int64_t row = 0; row < 16; ++row) {
    // 32 numbers: two halves of a line, or the two lines of a pair of k.
    __m512 left = _mm512_setzero_ps(), right = left;
    if (k_is_near && row < lines) {
      left = _mm512_maskz_loadu_ps(first(depth), x + row * stride);
      if (depth > 16) right = _mm512_maskz_loadu_ps(first(depth - 16), x + row * stride + 16);
    }
    if (!k_is_near && 2 * row < depth) {
      const float *pair = x + 2 * row * stride;
      left = _mm512_maskz_loadu_ps(first(lines), pair);
      if (2 * row + 1 < depth) right = _mm512_maskz_loadu_ps(first(lines), pair + stride);
    }
    whole &= !is_too_large(left) && !is_too_large(right);
    for (int part = 0; part < kParts; ++part) {
      const __m512i a = take_part(left), b = take_part(right);
      parts[part][row] = k_is_near ? _mm512_permutex2var_epi16(a, upper_halves, b)
                                   : _mm512_or_si512(b, _mm512_srli_epi32(a, 16));
    }
  }
  for (int part = 0; part < kParts; ++part) {
    if (k_is_near == by_pairs) transpose(parts[part]);
    for (int64_t row = 0; row < 16; ++row)
      _mm512_store_si512(tile + part * 2 * kTileSize + row * kStepDepth, parts[part][row]);
  }
  return whole;
}

template <bool k_is_near, bool by_pairs>
LLM_ON_TILES bool pack(const Lines &source, int64_t lines, int64_t span, uint16_t *packed) {
  const int64_t stride = k_is_near ? source.line_stride : source.depth_stride;
  bool whole = true;
  for (int64_t step = 0; step < steps(span); ++step) {
    for (int64_t tile = 0; tile < 2 * panels(lines); ++tile) {
      const int64_t line = tile * kTileLines, depth = step * kStepDepth;
      // A last panel's second tile may have no lines; then this isn't read.
      const float *corner = source.x + line * source.line_stride + depth * source.depth_stride;
      whole &= pack_tile<k_is_near, by_pairs>(
          corner, stride, lines - line, span - depth,
          packed + (tile / 2 * steps(span) + step) * kStepSize + tile % 2 * kTileSize);
    }
  }
  return whole;
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

}  // namespace

bool pack_rows(const Lines &a, int64_t lines, int64_t span, uint16_t *packed) {
  return a.depth_stride == 1 ? pack<true, false>(a, lines, span, packed)
                             : pack<false, false>(a, lines, span, packed);
}

bool pack_columns(const Lines &b, int64_t lines, int64_t span, uint16_t *packed) {
  return b.depth_stride == 1 ? pack<true, true>(b, lines, span, packed)
                             : pack<false, true>(b, lines, span, packed);
}

LLM_ON_TILES void begin_tiles() {
  static const TileConfig config;
  _tile_loadconfig(&config);
}

LLM_ON_TILES void end_tiles() { _tile_release(); }

LLM_ON_TILES void multiply_panels(int64_t steps, const uint16_t *a, const uint16_t *b, bool fresh,
                                  float *sums) {
  constexpr int64_t kRow = 64, kSums = kTileLines * kTileLines;
  // The compiler doesn't know what tiles read and write.
  asm volatile("" ::: "memory");
  if (fresh) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, kRow);
    _tile_loadd(1, sums + kSums, kRow);
    _tile_loadd(2, sums + 2 * kSums, kRow);
    _tile_loadd(3, sums + 3 * kSums, kRow);
  }
#define LLM_TAKE_A(part)                                    \
  _tile_loadd(4, a + 2 * (part) * kTileSize, kRow);         \
  _tile_loadd(5, a + (2 * (part) + 1) * kTileSize, kRow)
#define LLM_TAKE_B(part)                                    \
  _tile_loadd(6, b + 2 * (part) * kTileSize, kRow);         \
  _tile_loadd(7, b + (2 * (part) + 1) * kTileSize, kRow)
#define LLM_MULTIPLY       \
  _tile_dpbf16ps(0, 4, 6); \
  _tile_dpbf16ps(1, 4, 7); \
  _tile_dpbf16ps(2, 5, 6); \
  _tile_dpbf16ps(3, 5, 7)
  for (int64_t step = 0; step < steps; ++step, a += kStepSize, b += kStepSize) {
    LLM_TAKE_A(0);
    LLM_TAKE_B(2);
    LLM_MULTIPLY;
    LLM_TAKE_B(1);
    LLM_MULTIPLY;
    LLM_TAKE_A(1);
    LLM_MULTIPLY;
    LLM_TAKE_B(0);
    LLM_MULTIPLY;
    LLM_TAKE_A(2);
    LLM_MULTIPLY;
    LLM_TAKE_A(0);
    LLM_MULTIPLY;
  }
#undef LLM_TAKE_A
#undef LLM_TAKE_B
#undef LLM_MULTIPLY
  _tile_stored(0, sums, kRow);
  _tile_stored(1, sums + kSums, kRow);
  _tile_stored(2, sums + 2 * kSums, kRow);
  _tile_stored(3, sums + 3 * kSums, kRow);
  asm volatile("" ::: "memory");
}

LLM_ON_TILES void put_sums(int64_t rows, int64_t columns, const float *sums, const float *bias,
                           float *c, int64_t stride, bool accumulate) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; column += kTileLines) {
      const int64_t panel = column / kPanelLines * panels(rows) + row / kPanelLines;
      const int64_t tile = row / kTileLines % 2 * 2 + column / kTileLines % 2;
      const __mmask16 inside = first(columns - column);
      float *target = c + row * stride + column;
      __m512 sum =
          _mm512_load_ps(sums + panel * kSumsSize + (tile * kTileLines + row % kTileLines) * kTileLines);
      if (bias != nullptr) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(inside, bias + column));
      if (accumulate) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(inside, target));
      _mm512_mask_storeu_ps(target, inside, sum);
    }
  }
}

}  // namespace llm
#endif
