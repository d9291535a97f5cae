// Root mean square norm (Zhang and Sennrich, arXiv:1910.07467). A warp has a row.
#include "packs.cuh"

namespace llm_ops {

constexpr int kRowsOfBlock = kThreads / kWarp;

template <class T, int count>
__global__ void rms_norm(int64_t rows, int64_t width, llm_ops_matrix x, llm_ops_matrix residual,
                         llm_ops_matrix sum, const T *weight, float epsilon, llm_ops_matrix y,
                         float *inverse) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= rows) { return; }
  const T *normalised = static_cast<const T *>(x.data) + row * x.stride;
  const T *added = static_cast<const T *>(residual.data) + row * residual.stride;
  T *total = static_cast<T *>(sum.data) + row * sum.stride;
  float squares = 0;
  for (int64_t i = lane * count; i < width; i += kWarp * count) {
    const auto values = residual.data ? add<count>(normalised + i, added + i, total + i)
                                      : read<count>(normalised + i);
#pragma unroll
    for (int j = 0; j < count; ++j) {
      const float value = to_float(values.of[j]);
      squares += value * value;
    }
  }
  if (residual.data) { normalised = total; }  // a lane reads what it wrote itself
  const float r = 1 / sqrtf(warp_sum(squares) / width + epsilon);
  T *out = static_cast<T *>(y.data) + row * y.stride;
  for (int64_t i = lane * count; i < width; i += kWarp * count) {
    auto values = read<count>(normalised + i);
    const auto weights = read<count>(weight + i);
#pragma unroll
    for (int j = 0; j < count; ++j) {
      values.of[j] = from_float<T>(to_float(values.of[j]) * r * to_float(weights.of[j]));
    }
    write(out + i, values);
  }
  if (lane == 0) { inverse[row] = r; }
}

static int check_rows(int64_t rows, int64_t width) {
  const bool fits = rows >= 0 && width > 0 && ceil_div(rows, kRowsOfBlock) <= kMostBlocks &&
                    ceil_div(width, kThreads) <= kMostBlocks;
  return check(fits, LLM_OPS_BAD_SHAPE);
}

}  // namespace llm_ops

using namespace llm_ops;

int llm_ops_rms_norm(int64_t rows, int64_t width, llm_ops_dtype dtype, llm_ops_matrix x,
                     llm_ops_matrix residual, llm_ops_matrix sum, const void *weight,
                     float epsilon, llm_ops_matrix y, float *inverse, void *stream) {
  LLM_OPS_CHECK(check_rows(rows, width));
  if (rows == 0) { return LLM_OPS_OK; }
  LLM_OPS_CHECK(check_matrix(x, width));
  LLM_OPS_CHECK(check_optional(residual, width));
  if (residual.data) { LLM_OPS_CHECK(check_matrix(sum, width)); }
  LLM_OPS_CHECK(check_matrix(y, width));
  LLM_OPS_CHECK(check(weight && inverse, LLM_OPS_NULL_POINTER));
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return with_packs<T>(width, {x, residual, sum, y}, {weight}, [&](auto pack) {
      return launch(rms_norm<T, decltype(pack)::value>, dim3(ceil_div(rows, kRowsOfBlock)),
                    kThreads, 0, stream, rows, width, x, residual, sum,
                    static_cast<const T *>(weight), epsilon, y, inverse);
    });
  });
}
