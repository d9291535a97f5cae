// Root mean square norm (Zhang and Sennrich, arXiv:1910.07467). A warp has a row.
#include "column_sums.cuh"
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
    auto values = read<count>(normalised + i);
    if (residual.data) {
      const auto others = read<count>(added + i);
#pragma unroll
      for (int j = 0; j < count; ++j) {
        values.of[j] = from_float<T>(to_float(values.of[j]) + to_float(others.of[j]));
      }
      write(total + i, values);
    }
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

// With n = sum · r and h = weight · dy: dx = (h - n · mean(h · n)) · r + dsum.
template <class T, int count>
__global__ void rms_norm_dx(int64_t rows, int64_t width, llm_ops_matrix dy, llm_ops_matrix sum,
                            const T *weight, const float *inverse, llm_ops_matrix dsum,
                            llm_ops_matrix dx) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= rows) { return; }
  const T *gradient = static_cast<const T *>(dy.data) + row * dy.stride;
  const T *normalised = static_cast<const T *>(sum.data) + row * sum.stride;
  const T *other = dsum.data ? static_cast<const T *>(dsum.data) + row * dsum.stride : nullptr;
  const float r = inverse[row];
  float products = 0;
  for (int64_t i = lane * count; i < width; i += kWarp * count) {
    const auto weights = read<count>(weight + i), gradients = read<count>(gradient + i);
    const auto values = read<count>(normalised + i);
#pragma unroll
    for (int j = 0; j < count; ++j) {
      products += to_float(weights.of[j]) * to_float(gradients.of[j]) * to_float(values.of[j]) * r;
    }
  }
  const float mean = warp_sum(products) / width;
  T *out = static_cast<T *>(dx.data) + row * dx.stride;
  for (int64_t i = lane * count; i < width; i += kWarp * count) {
    const auto weights = read<count>(weight + i), gradients = read<count>(gradient + i);
    auto values = read<count>(normalised + i);
    Pack<T, count> others{};
    if (other) { others = read<count>(other + i); }
#pragma unroll
    for (int j = 0; j < count; ++j) {
      const float h = to_float(weights.of[j]) * to_float(gradients.of[j]);
      const float through_norm = (h - to_float(values.of[j]) * r * mean) * r;
      values.of[j] = from_float<T>(through_norm + (other ? to_float(others.of[j]) : 0));
    }
    write(out + i, values);
  }
}

// A thread has a column of a slice of the rows: partial [slices, width].
template <class T>
__global__ void rms_norm_dweight(int64_t rows, int64_t width, llm_ops_matrix dy,
                                 llm_ops_matrix sum, const float *inverse, float *partial) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= width) { return; }
  const T *gradient = static_cast<const T *>(dy.data) + column;
  const T *normalised = static_cast<const T *>(sum.data) + column;
  float total = 0;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    total += to_float(gradient[row * dy.stride]) * to_float(normalised[row * sum.stride]) *
             inverse[row];
  }
  partial[blockIdx.y * width + column] = total;
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

int llm_ops_rms_norm_backward(int64_t rows, int64_t width, llm_ops_dtype dtype, llm_ops_matrix dy,
                              llm_ops_matrix sum, const void *weight, const float *inverse,
                              llm_ops_matrix dsum, llm_ops_matrix dx, float *dweight,
                              float *workspace, void *stream) {
  LLM_OPS_CHECK(check_rows(rows, width));
  LLM_OPS_CHECK(check(dweight != nullptr, LLM_OPS_NULL_POINTER));
  const int64_t slices = slices_of(rows);
  const dim3 columns(ceil_div(width, kThreads));
  if (rows > 0) {
    LLM_OPS_CHECK(check_matrix(dy, width));
    LLM_OPS_CHECK(check_matrix(sum, width));
    LLM_OPS_CHECK(check_optional(dsum, width));
    LLM_OPS_CHECK(check_matrix(dx, width));
    LLM_OPS_CHECK(check(weight && inverse && workspace, LLM_OPS_NULL_POINTER));
    // The weight's gradient goes first: dx may overwrite dy.
    LLM_OPS_CHECK(with_dtype(dtype, [&](auto zero) {
      using T = decltype(zero);
      LLM_OPS_CHECK(launch(rms_norm_dweight<T>, dim3(columns.x, slices), kThreads, 0, stream, rows,
                           width, dy, sum, inverse, workspace));
      return with_packs<T>(width, {dy, sum, dsum, dx}, {weight}, [&](auto pack) {
        return launch(rms_norm_dx<T, decltype(pack)::value>, dim3(ceil_div(rows, kRowsOfBlock)),
                      kThreads, 0, stream, rows, width, dy, sum, static_cast<const T *>(weight),
                      inverse, dsum, dx);
      });
    }));
  }
  return launch(add_slices, columns, kThreads, 0, stream, slices, width, workspace, dweight);
}
