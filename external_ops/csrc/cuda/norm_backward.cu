// Both norms' backward pass. A block has some rows, one after the other: it keeps their sums for the
// weights' gradients in shared memory, so that operands come from device memory once.
#include "packs.cuh"

namespace llm_ops {

constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kRowsOfBlock = 4;    // at least, where there are so many
constexpr int64_t kMostSlices = 528;   // four blocks of each multiprocessor of an H100
constexpr int64_t kMostShared = 160 * 1024;  // what compute capability 8.0 allows, and some spare

struct Operands {
  llm_ops_matrix dy, sum;
  const void *weight;
  const float *means, *inverse;  // means of layer norm alone
  llm_ops_matrix dsum, dx;
};

// Sums of both values over the block. `scratch` must not be the one of the call before.
__device__ inline void block_sums(float &a, float &b, float *scratch) {
  const int warp = threadIdx.x / kWarp;
  a = warp_sum(a);
  b = warp_sum(b);
  if (threadIdx.x % kWarp == 0) {
    scratch[warp] = a;
    scratch[kWarps + warp] = b;
  }
  __syncthreads();
  a = b = 0;
  for (int i = 0; i < kWarps; ++i) {
    a += scratch[i];
    b += scratch[kWarps + i];
  }
}

// With n = (sum - mean) · r and h = weight · dy: dx = (h - mean(h) - n · mean(h · n)) · r + dsum, where
// RMSNorm (not centred) has no mean and no mean(h). partial: [blocks, width] of dweight, then of dbias.
template <class T, int count, bool centred>
__global__ void norm_backward(int64_t rows, int64_t width, Operands given, float *partial) {
  extern __shared__ int4 shared[];
  float *scratch = reinterpret_cast<float *>(shared);
  // Element j of pack p is at [j, p], so that neighbouring threads use neighbouring banks.
  float *of_weight = scratch + 4 * kWarps, *of_bias = of_weight + width;
  const int64_t packs = width / count;
  const T *weight = static_cast<const T *>(given.weight);
  for (int64_t p = threadIdx.x; p < packs; p += kThreads) {
    for (int j = 0; j < count; ++j) {
      of_weight[j * packs + p] = 0;
      if (centred) { of_bias[j * packs + p] = 0; }
    }
  }
  int buffer = 0;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T *dy = static_cast<const T *>(given.dy.data) + row * given.dy.stride;
    const T *sum = static_cast<const T *>(given.sum.data) + row * given.sum.stride;
    const T *dsum = static_cast<const T *>(given.dsum.data) + row * given.dsum.stride;
    T *dx = static_cast<T *>(given.dx.data) + row * given.dx.stride;
    const float mean = centred ? given.means[row] : 0, r = given.inverse[row];
    float gradients = 0, products = 0;
    for (int64_t p = threadIdx.x; p < packs; p += kThreads) {
      const auto slopes = read<count>(dy + p * count), values = read<count>(sum + p * count);
      const auto weights = read<count>(weight + p * count);
#pragma unroll
      for (int j = 0; j < count; ++j) {
        const float slope = to_float(slopes.of[j]), h = to_float(weights.of[j]) * slope;
        const float n = (to_float(values.of[j]) - mean) * r;
        gradients += h;
        products += h * n;
        of_weight[j * packs + p] += slope * n;
        if (centred) { of_bias[j * packs + p] += slope; }
      }
    }
    block_sums(gradients, products, scratch + buffer * 2 * kWarps);
    buffer = 1 - buffer;
    const float mean_gradient = centred ? gradients / width : 0, mean_product = products / width;
    for (int64_t p = threadIdx.x; p < packs; p += kThreads) {
      const auto slopes = read<count>(dy + p * count), weights = read<count>(weight + p * count);
      auto values = read<count>(sum + p * count);
      Pack<T, count> others{};
      if (given.dsum.data) { others = read<count>(dsum + p * count); }
#pragma unroll
      for (int j = 0; j < count; ++j) {
        const float h = to_float(weights.of[j]) * to_float(slopes.of[j]);
        const float n = (to_float(values.of[j]) - mean) * r;
        const float through_norm = (h - mean_gradient - n * mean_product) * r;
        values.of[j] = from_float<T>(given.dsum.data ? through_norm + to_float(others.of[j])
                                                     : through_norm);
      }
      write(dx + p * count, values);
    }
  }
  float *out = partial + blockIdx.x * width;
  for (int64_t p = threadIdx.x; p < packs; p += kThreads) {
    for (int j = 0; j < count; ++j) {
      out[p * count + j] = of_weight[j * packs + p];
      if (centred) { out[gridDim.x * width + p * count + j] = of_bias[j * packs + p]; }
    }
  }
}

// One thread sums one column over the blocks: sums [width] of partial [slices, width].
static __global__ void add_slices(int64_t slices, int64_t width, const float *partial, float *sums) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= width) { return; }
  float sum = 0;
  for (int64_t slice = 0; slice < slices; ++slice) { sum += partial[slice * width + column]; }
  sums[column] = sum;
}

static int64_t slices_of(int64_t rows) {
  const int64_t slices = ceil_div(rows, kRowsOfBlock);
  return slices < kMostSlices ? slices : kMostSlices;
}

static int64_t shared_bytes(int64_t width, bool centred) {
  return (4 * kWarps + (centred ? 2 : 1) * width) * static_cast<int64_t>(sizeof(float));
}

static int check_shape(int64_t rows, int64_t width, bool centred) {
  const bool fits = rows >= 0 && width > 0 && shared_bytes(width, centred) <= kMostShared;
  return check(fits, LLM_OPS_BAD_SHAPE);
}

template <bool centred>
int backward(int64_t rows, int64_t width, llm_ops_dtype dtype, const Operands &given,
             float *dweight, float *dbias, float *workspace, void *stream) {
  LLM_OPS_CHECK(check_shape(rows, width, centred));
  LLM_OPS_CHECK(check(dweight && (dbias || !centred), LLM_OPS_NULL_POINTER));
  const int64_t slices = slices_of(rows);
  if (rows > 0) {
    LLM_OPS_CHECK(check_matrix(given.dy, width));
    LLM_OPS_CHECK(check_matrix(given.sum, width));
    LLM_OPS_CHECK(check_optional(given.dsum, width));
    LLM_OPS_CHECK(check_matrix(given.dx, width));
    LLM_OPS_CHECK(check(given.weight && given.inverse && (given.means || !centred) && workspace,
                        LLM_OPS_NULL_POINTER));
    LLM_OPS_CHECK(with_dtype(dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto matrices = {given.dy, given.sum, given.dsum, given.dx};
      return with_packs<T>(width, matrices, {given.weight}, [&](auto pack) {
        return launch(norm_backward<T, decltype(pack)::value, centred>, dim3(slices), kThreads,
                      shared_bytes(width, centred), stream, rows, width, given, workspace);
      });
    }));
  }
  const dim3 columns(ceil_div(width, kThreads));
  LLM_OPS_CHECK(
      launch(add_slices, columns, kThreads, 0, stream, slices, width, workspace, dweight));
  if (!centred) { return LLM_OPS_OK; }
  const float *of_bias = workspace ? workspace + slices * width : nullptr;
  return launch(add_slices, columns, kThreads, 0, stream, slices, width, of_bias, dbias);
}

}  // namespace llm_ops

using namespace llm_ops;

int llm_ops_rms_norm_backward(int64_t rows, int64_t width, llm_ops_dtype dtype, llm_ops_matrix dy,
                              llm_ops_matrix sum, const void *weight, const float *inverse,
                              llm_ops_matrix dsum, llm_ops_matrix dx, float *dweight,
                              float *workspace, void *stream) {
  const Operands given{dy, sum, weight, nullptr, inverse, dsum, dx};
  return backward<false>(rows, width, dtype, given, dweight, nullptr, workspace, stream);
}

int llm_ops_layer_norm_backward(int64_t rows, int64_t width, llm_ops_dtype dtype,
                                llm_ops_matrix dy, llm_ops_matrix sum, const void *weight,
                                const float *mean, const float *inverse, llm_ops_matrix dsum,
                                llm_ops_matrix dx, float *dweight, float *dbias, float *workspace,
                                void *stream) {
  const Operands given{dy, sum, weight, mean, inverse, dsum, dx};
  return backward<true>(rows, width, dtype, given, dweight, dbias, workspace, stream);
}

int64_t llm_ops_norm_workspace(int64_t rows, int64_t width) {
  const int64_t gradients = 2;  // of weight and bias
  return check_shape(rows, width, false) == LLM_OPS_OK ? gradients * slices_of(rows) * width : 0;
}
