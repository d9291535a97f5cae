// What all code on a processor's matrix tiles (Intel AMX) has in common. A tile is 16 rows of 64 bytes.
//
// A tile of a, 16 lines by 32 steps along k, has a row for each line. A tile of b has a row for each of 16
// pairs of k, with the two numbers of a line beside each other. Their product is a tile of 16 × 16 float32.
#pragma once

#ifdef __x86_64__
#include <immintrin.h>

#include <cstdint>

#define LLM_ON_TILES __attribute__((target("arch=x86-64-v4,avx512bf16,amx-tile,amx-bf16")))
#define LLM_INLINE_ON_TILES static inline __attribute__((always_inline)) LLM_ON_TILES

namespace llm {

constexpr int64_t kTileLines = 16, kTileDepth = 32;
constexpr int64_t kTileSize = kTileLines * kTileDepth;  // in bfloat16
constexpr int64_t kSumsSize = kTileLines * kTileLines;  // in float32
constexpr int64_t kTileRow = 64;                        // bytes

// While it lives its thread may use all eight tiles, in whole.
class TilesInUse {
 public:
  LLM_ON_TILES TilesInUse() {
    static const Config config;
    _tile_loadconfig(&config);
  }
  LLM_ON_TILES ~TilesInUse() { _tile_release(); }
  TilesInUse(const TilesInUse &) = delete;

 private:
  struct alignas(64) Config {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
};

// The compiler doesn't know what tiles read and write: this stands before and after them.
#define LLM_TILES_MEET_MEMORY asm volatile("" ::: "memory")

// The first `count` lanes.
LLM_INLINE_ON_TILES __mmask16 first(int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xFFFF : count <= 0 ? 0 : (1 << count) - 1);
}

LLM_INLINE_ON_TILES __mmask32 first_of_32(int64_t count) {
  return static_cast<__mmask32>(count >= 32 ? 0xFFFFFFFF : count <= 0 ? 0 : (1u << count) - 1);
}

// x and y, rounded to bfloat16, x first.
LLM_INLINE_ON_TILES __m512i rounded(__m512 x, __m512 y) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(y, x));
}

// Whether some number in x is not below 2^63, or is none: parts are rounded, and where a product only just
// has room in float32, that of the parts may have none.
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

// x and y, x first, in bfloat16: rounded, or as the sum of three parts, of 8 bits each.
template <int count>
LLM_INLINE_ON_TILES void in_parts(__m512 x, __m512 y, __m512i (&parts)[count]) {
  if (count == 1) {
    parts[0] = rounded(x, y);
    return;
  }
  const __m512i upper_halves =
      _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25,
                       23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  for (auto &part : parts) {
    const __m512i of_x = take_part(x), of_y = take_part(y);
    part = _mm512_permutex2var_epi16(of_x, upper_halves, of_y);
  }
}

// Of 32 numbers in bfloat16 the first beside the 17th, and so on.
LLM_INLINE_ON_TILES __m512i interleaved(__m512i x) {
  return _mm512_permutexvar_epi16(
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                       20, 4, 19, 3, 18, 2, 17, 1, 16, 0),
      x);
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

}  // namespace llm
#endif
