// csrc/cuda/tensor_core.cuh without tensor cores: the lanes tell each other their fragments.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "numbers.cuh"

namespace llm_ops {

// One of the two neighbours in a register.
template <class T>
float neighbour(uint32_t word, int side) {
  T values[2];
  std::memcpy(values, &word, 4);
  return to_float(values[side]);
}

template <bool transposed>
void read_matrices(unsigned (&registers)[4], const void *row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) { std::abort(); }
  uint32_t words[2];
  std::memcpy(words, &row, sizeof(words));
  const int lane = emulation::current % 32, g = lane / 4, t = lane % 4;
  emulation::exchange(words, 2, [&](auto words_of) {
    for (int i = 0; i < 4; ++i) {
      uint16_t values[2];
      for (int side = 0; side < 2; ++side) {
        const int of_row = transposed ? 2 * t + side : g, column = transposed ? g : 2 * t + side;
        const uint16_t *numbers;
        std::memcpy(&numbers, words_of(8 * i + of_row), sizeof(numbers));
        values[side] = numbers[column];
      }
      std::memcpy(&registers[i], values, 4);
    }
    return 0;
  });
}

template <class T>
void multiply_add(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  const uint32_t words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const int lane = emulation::current % 32;
  emulation::exchange(words, 6, [&](auto words_of) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      for (int depth = 0; depth < 16; ++depth) {
        const int other = depth % 8 / 2;  // the lane of four that holds this depth
        const uint32_t left = words_of(row % 8 * 4 + other)[row / 8 + depth / 8 * 2];
        const uint32_t right = words_of(column * 4 + other)[4 + depth / 8];
        c[i] += neighbour<T>(left, depth % 2) * neighbour<T>(right, depth % 2);
      }
    }
    return 0;
  });
}

}  // namespace llm_ops
