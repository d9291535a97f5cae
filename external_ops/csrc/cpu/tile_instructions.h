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

// Four sums at once, from two tiles of a in 4 and 5 and two of b in 6 and 7.
#define LLM_MULTIPLY_TILES \
  _tile_dpbf16ps(0, 4, 6); \
  _tile_dpbf16ps(1, 4, 7); \
  _tile_dpbf16ps(2, 5, 6); \
  _tile_dpbf16ps(3, 5, 7)

LLM_INLINE_ON_TILES void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

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
