// Neighbouring elements that a thread reads or writes at once: 16 bytes where operands allow it.
#pragma once
#include <stdint.h>

#include <initializer_list>

#include "launch.cuh"
#include "numbers.cuh"

namespace llm_ops {

template <class T, int count>
struct alignas(count * sizeof(T)) Pack {
  T of[count];
};

template <int count, class T>
__device__ Pack<T, count> read(const T *at) {
  return *reinterpret_cast<const Pack<T, count> *>(at);
}

template <int count, class T>
__device__ void write(T *at, const Pack<T, count> &pack) {
  *reinterpret_cast<Pack<T, count> *>(at) = pack;
}

// Writes x + other, rounded, and returns what it wrote.
template <int count, class T>
__device__ Pack<T, count> add(const T *x, const T *other, T *sum) {
  Pack<T, count> values = read<count>(x);
  const auto others = read<count>(other);
#pragma unroll
  for (int j = 0; j < count; ++j) {
    values.of[j] = from_float<T>(to_float(values.of[j]) + to_float(others.of[j]));
  }
  write(sum, values);
  return values;
}

template <int count>
struct Count {
  static constexpr int value = count;
};

constexpr int kBytesOfPack = 16;

inline bool is_aligned(const void *pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kBytesOfPack == 0;
}

// Calls function(Count<elements of a pack>{}) if rows of `width` elements consist of whole packs that
// are aligned in all matrices (data may be NULL) and vectors; else function(Count<1>{}).
template <class T, class Function>
int with_packs(int64_t width, std::initializer_list<llm_ops_matrix> matrices,
               std::initializer_list<const void *> vectors, Function function) {
  constexpr int kCount = kBytesOfPack / sizeof(T);
  bool fit = width % kCount == 0;
  for (const llm_ops_matrix &matrix : matrices) {
    fit = fit && is_aligned(matrix.data) && (!matrix.data || matrix.stride % kCount == 0);
  }
  for (const void *vector : vectors) { fit = fit && is_aligned(vector); }
  return fit ? function(Count<kCount>{}) : function(Count<1>{});
}

}  // namespace llm_ops
