// The gradients of a norm's weights, which are sums over rows, in two stages of fixed order.
#pragma once
#include "launch.cuh"

namespace llm_ops {

constexpr int64_t kRowsOfSlice = 64;
constexpr int64_t kMostSlices = 256;

inline int64_t slices_of(int64_t rows) {
  const int64_t slices = ceil_div(rows, kRowsOfSlice);
  return slices < kMostSlices ? slices : kMostSlices;
}

// One thread sums one column over the slices: sums [width] of partial [slices, width].
static __global__ void add_slices(int64_t slices, int64_t width, const float *partial, float *sums) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= width) { return; }
  float sum = 0;
  for (int64_t slice = 0; slice < slices; ++slice) { sum += partial[slice * width + column]; }
  sums[column] = sum;
}

}  // namespace llm_ops
