// Cross entropy of logits that come a chunk of the vocabulary at a time. A warp has a row, of which
// it keeps the largest logit and the sum of exponentials below it (Milakov and Gimelshein,
// arXiv:1805.02867).
#include "packs.cuh"

namespace llm_ops {

constexpr int kRowsOfBlock = kThreads / kWarp;

static __global__ void begin(int64_t rows, float *maximum, float *sum, float *label_logit) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= rows) { return; }
  maximum[row] = -INFINITY;
  sum[row] = 0;
  label_logit[row] = 0;
}

// A lane's largest logit so far and the sum of exponentials below it, made one of the warp.
__device__ inline void join_lanes(float &largest, float &sum) {
  const float whole = warp_max(largest);
  sum = warp_sum(largest == -INFINITY ? 0 : sum * expf(largest - whole));
  largest = whole;
}

template <class T, int count>
__global__ void add(int64_t rows, int64_t width, llm_ops_matrix logits, const int64_t *labels,
                    int64_t first_entry, float *maximum, float *sum, float *label_logit) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= rows) { return; }
  const T *z = static_cast<const T *>(logits.data) + row * logits.stride;
  float largest = -INFINITY, exponentials = 0;
  for (int64_t i = lane * count; i < width; i += kWarp * count) {
    const auto logits_of_lane = read<count>(z + i);
    float bound = largest;
#pragma unroll
    for (int j = 0; j < count; ++j) { bound = fmaxf(bound, to_float(logits_of_lane.of[j])); }
    if (bound == -INFINITY) { continue; }  // nothing to add, and -inf - -inf is no number
    exponentials *= expf(largest - bound);
    largest = bound;
#pragma unroll
    for (int j = 0; j < count; ++j) {
      exponentials += expf(to_float(logits_of_lane.of[j]) - largest);
    }
  }
  join_lanes(largest, exponentials);
  if (lane != 0) { return; }
  const int64_t entry = labels[row] - first_entry;
  if (entry >= 0 && entry < width) { label_logit[row] = to_float(z[entry]); }
  if (largest == -INFINITY) { return; }
  const float before = maximum[row], whole = fmaxf(before, largest);
  maximum[row] = whole;
  sum[row] = sum[row] * expf(before - whole) + exponentials * expf(largest - whole);
}

static __global__ void rescale(int64_t rows, const float *maximum, const float *new_maximum,
                               float *sum) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row < rows) { sum[row] *= expf(maximum[row] - new_maximum[row]); }
}

static __global__ void loss(int64_t rows, const int64_t *labels, int64_t ignore_index,
                            const float *maximum, const float *sum, const float *label_logit,
                            float *losses, float *log_sums) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= rows) { return; }
  const float log_sum = maximum[row] + logf(sum[row]);
  log_sums[row] = log_sum;
  losses[row] = labels[row] == ignore_index ? 0 : log_sum - label_logit[row];
}

template <class T, int count>
__global__ void backward(int64_t rows, int64_t width, llm_ops_matrix logits, const int64_t *labels,
                         int64_t first_entry, int64_t ignore_index, const float *log_sums,
                         const float *dlosses) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= rows) { return; }
  T *z = static_cast<T *>(logits.data) + row * logits.stride;
  const bool ignored = labels[row] == ignore_index;
  const int64_t entry = labels[row] - first_entry;
  const float log_sum = log_sums[row], dloss = dlosses[row];
  for (int64_t i = lane * count; i < width; i += kWarp * count) {
    auto values = read<count>(z + i);
#pragma unroll
    for (int j = 0; j < count; ++j) {
      const float probability = expf(to_float(values.of[j]) - log_sum);
      const float dlogit = (probability - (i + j == entry ? 1 : 0)) * dloss;
      values.of[j] = from_float<T>(ignored ? 0 : dlogit);
    }
    write(z + i, values);
  }
}

static int check_rows(int64_t rows) {
  return check(rows >= 0 && ceil_div(rows, kRowsOfBlock) <= kMostBlocks, LLM_OPS_BAD_SHAPE);
}

}  // namespace llm_ops

using namespace llm_ops;

int llm_ops_cross_entropy_begin(int64_t rows, float *maximum, float *sum, float *label_logit,
                                void *stream) {
  LLM_OPS_CHECK(check_rows(rows));
  if (rows == 0) { return LLM_OPS_OK; }
  LLM_OPS_CHECK(check(maximum && sum && label_logit, LLM_OPS_NULL_POINTER));
  return launch(begin, dim3(ceil_div(rows, kThreads)), kThreads, 0, stream, rows, maximum, sum,
                label_logit);
}

int llm_ops_cross_entropy_add(int64_t rows, int64_t width, llm_ops_dtype dtype,
                              llm_ops_matrix logits, const int64_t *labels, int64_t first_entry,
                              float *maximum, float *sum, float *label_logit, void *stream) {
  LLM_OPS_CHECK(check_rows(rows));
  LLM_OPS_CHECK(check(width > 0 && first_entry >= 0, LLM_OPS_BAD_SHAPE));
  if (rows == 0) { return LLM_OPS_OK; }
  LLM_OPS_CHECK(check_matrix(logits, width));
  LLM_OPS_CHECK(check(labels && maximum && sum && label_logit, LLM_OPS_NULL_POINTER));
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return with_packs<T>(width, {logits}, {}, [&](auto pack) {
      return launch(add<T, decltype(pack)::value>, dim3(ceil_div(rows, kRowsOfBlock)), kThreads, 0,
                    stream, rows, width, logits, labels, first_entry, maximum, sum, label_logit);
    });
  });
}

int llm_ops_cross_entropy_rescale(int64_t rows, const float *maximum, const float *new_maximum,
                                  float *sum, void *stream) {
  LLM_OPS_CHECK(check_rows(rows));
  if (rows == 0) { return LLM_OPS_OK; }
  LLM_OPS_CHECK(check(maximum && new_maximum && sum, LLM_OPS_NULL_POINTER));
  return launch(rescale, dim3(ceil_div(rows, kThreads)), kThreads, 0, stream, rows, maximum,
                new_maximum, sum);
}

int llm_ops_cross_entropy_loss(int64_t rows, const int64_t *labels, int64_t ignore_index,
                               const float *maximum, const float *sum, const float *label_logit,
                               float *losses, float *log_sums, void *stream) {
  LLM_OPS_CHECK(check_rows(rows));
  if (rows == 0) { return LLM_OPS_OK; }
  LLM_OPS_CHECK(check(labels && maximum && sum && label_logit && losses && log_sums,
                      LLM_OPS_NULL_POINTER));
  return launch(loss, dim3(ceil_div(rows, kThreads)), kThreads, 0, stream, rows, labels,
                ignore_index, maximum, sum, label_logit, losses, log_sums);
}

int llm_ops_cross_entropy_backward(int64_t rows, int64_t width, llm_ops_dtype dtype,
                                   llm_ops_matrix logits, const int64_t *labels,
                                   int64_t first_entry, int64_t ignore_index,
                                   const float *log_sums, const float *dlosses, void *stream) {
  LLM_OPS_CHECK(check_rows(rows));
  LLM_OPS_CHECK(check(width > 0 && first_entry >= 0, LLM_OPS_BAD_SHAPE));
  if (rows == 0) { return LLM_OPS_OK; }
  LLM_OPS_CHECK(check_matrix(logits, width));
  LLM_OPS_CHECK(check(labels && log_sums && dlosses, LLM_OPS_NULL_POINTER));
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return with_packs<T>(width, {logits}, {}, [&](auto pack) {
      return launch(backward<T, decltype(pack)::value>, dim3(ceil_div(rows, kRowsOfBlock)),
                    kThreads, 0, stream, rows, width, logits, labels, first_entry, ignore_index,
                    log_sums, dlosses);
    });
  });
}
