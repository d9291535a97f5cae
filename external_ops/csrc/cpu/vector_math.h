// Arithmetic that the compiler turns into vector instructions, and rows as float32.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "instructions.h"
#include "llm_ops_cpu.h"

namespace llm {

// e^x to two units in the last place (Cephes' scheme): x = n ln 2 + r, a polynomial in r, and n added
// to the exponent. Below -87 it is 0: subnormal results would make what follows 50 times slower.
LLM_INLINE float exponential(float x) {
  // Written so that a NaN, of which no integer can be made, ends at a bound.
  const float bounded = x > -87.0f ? (x < 88.7f ? x : 88.7f) : -87.0f;
  // In a number of this size the last bit of the fraction stands for 1: the addition rounds to n,
  // and leaves it in the lowest bits.
  const float round = 12582912.0f;
  const float shifted = bounded * 1.44269504f + round;
  const float n = shifted - round;
  const float r = (bounded - n * 0.693359375f) - n * -2.12194440e-4f;
  float polynomial = 1.9875691500e-4f;
  polynomial = polynomial * r + 1.3981999507e-3f;
  polynomial = polynomial * r + 8.3334519073e-3f;
  polynomial = polynomial * r + 4.1665795894e-2f;
  polynomial = polynomial * r + 1.6666665459e-1f;
  polynomial = polynomial * r + 5.0000001201e-1f;
  const float mantissa = polynomial * (r * r) + r + 1.0f;
  uint32_t bits, exponent;
  std::memcpy(&bits, &mantissa, sizeof bits);
  std::memcpy(&exponent, &shifted, sizeof exponent);
  bits += exponent << 23;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  if (x != x) return x;
  return x < -87.0f ? 0.0f : (x > 88.7f ? INFINITY : result);
}

LLM_INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

LLM_INLINE float from_bfloat16(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

// Rounds to nearest, ties to even; a NaN stays one.
LLM_INLINE uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>(value != value ? (bits >> 16) | 0x40u : rounded);
}

// sum[i] += x[i]
LLM_INLINE void add_to_body(int64_t width, const float *__restrict x, float *__restrict sum) {
  for (int64_t i = 0; i < width; ++i) sum[i] += x[i];
}
constexpr Dispatched<add_to_body> add_to;

inline int64_t bytes_of(llm_dtype dtype) { return dtype == LLM_BFLOAT16 ? 2 : 4; }

inline const void *at(const void *data, int64_t element, llm_dtype dtype) {
  return static_cast<const char *>(data) + element * bytes_of(dtype);
}

inline void *at(void *data, int64_t element, llm_dtype dtype) {
  return static_cast<char *>(data) + element * bytes_of(dtype);
}

LLM_INLINE void widen_body(int64_t count, const uint16_t *__restrict source,
                           float *__restrict target) {
  for (int64_t i = 0; i < count; ++i) target[i] = from_bfloat16(source[i]);
}
constexpr Dispatched<widen_body> widen;

LLM_INLINE void narrow_body(int64_t count, const float *__restrict source,
                            uint16_t *__restrict target) {
  for (int64_t i = 0; i < count; ++i) target[i] = to_bfloat16(source[i]);
}
constexpr Dispatched<narrow_body> narrow;

// `count` values as float32: the data themselves, or a copy in `buffer`.
inline const float *load(const void *data, int64_t count, llm_dtype dtype, float *buffer) {
  if (dtype == LLM_FLOAT32) return static_cast<const float *>(data);
  widen(count, static_cast<const uint16_t *>(data), buffer);
  return buffer;
}

// Where float32 results go before `store`: to the place itself, or to `buffer`.
inline float *place(void *data, llm_dtype dtype, float *buffer) {
  return dtype == LLM_FLOAT32 ? static_cast<float *>(data) : buffer;
}

inline void store(void *data, int64_t count, llm_dtype dtype, const float *values) {
  if (dtype == LLM_BFLOAT16) narrow(count, values, static_cast<uint16_t *>(data));
}

}  // namespace llm
