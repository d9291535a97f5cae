// Rotary position embedding (Su et al., arXiv:2104.09864). A thread has a pair of features, or one
// feature that stays.
#include "launch.cuh"
#include "numbers.cuh"

namespace llm_ops {

template <class T>
__global__ void rotary(int64_t count, int64_t length, int64_t heads, int64_t size, int64_t turned,
                       int64_t spans, llm_ops_heads x, const float *cos, const float *sin,
                       int64_t table_batch_stride, float sign, llm_ops_heads y) {
  int64_t rest = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (rest >= count) { return; }
  const int64_t pairs = turned / 2, units = size - pairs;
  const int64_t unit = rest % units;
  rest /= units;
  const int64_t head = rest % heads;
  rest /= heads;
  const int64_t position = rest % length, sample = rest / length;
  const T *from = static_cast<const T *>(x.data) + sample * x.batch_stride +
                  position * x.position_stride + head * x.head_stride;
  T *to = static_cast<T *>(y.data) + sample * y.batch_stride + position * y.position_stride +
          head * y.head_stride;
  if (unit >= pairs) {
    to[pairs + unit] = from[pairs + unit];
    return;
  }
  const int64_t half = pairs / spans;
  const int64_t first = unit / half * 2 * half + unit % half, second = first + half;
  const int64_t entry = sample * table_batch_stride + position * turned + first;
  const float c = cos[entry], s = sign * sin[entry];
  const float a = to_float(from[first]), b = to_float(from[second]);
  to[first] = from_float<T>(a * c - b * s);
  to[second] = from_float<T>(b * c + a * s);
}

}  // namespace llm_ops

using namespace llm_ops;

int llm_ops_rotary(int64_t batch, int64_t length, int64_t heads, int64_t size, int64_t turned,
                   int64_t spans, llm_ops_dtype dtype, llm_ops_heads x, const float *cos,
                   const float *sin, int64_t table_batch_stride, int sign, llm_ops_heads y,
                   void *stream) {
  LLM_OPS_CHECK(check(batch >= 0 && length >= 0 && heads >= 0 && size > 0, LLM_OPS_BAD_SHAPE));
  LLM_OPS_CHECK(check(spans > 0 && turned > 0 && turned <= size && turned % (2 * spans) == 0,
                      LLM_OPS_BAD_SHAPE));
  LLM_OPS_CHECK(check(sign == 1 || sign == -1, LLM_OPS_BAD_OPTION));
  const int64_t count = batch * length * heads * (size - turned / 2);
  const int64_t blocks = ceil_div(count, kThreads);
  LLM_OPS_CHECK(check(blocks <= kMostBlocks, LLM_OPS_BAD_SHAPE));
  if (count == 0) { return LLM_OPS_OK; }
  LLM_OPS_CHECK(check(x.data && y.data && cos && sin, LLM_OPS_NULL_POINTER));
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(rotary<T>, dim3(blocks), kThreads, 0, stream, count, length, heads, size, turned,
                  spans, x, cos, sin, table_batch_stride, sign, y);
  });
}
