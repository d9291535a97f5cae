// Rotary position embedding (Su et al., arXiv:2104.09864). A block has a position, a thread a pack of
// pairs of features, or one of features that stay.
#include "packs.cuh"

namespace llm_ops {

template <class T, int count>
__global__ void rotary(int64_t length, int heads, int size, int turned, int spans, llm_ops_heads x,
                       const float *cos, const float *sin, int64_t table_batch_stride, float sign,
                       llm_ops_heads y) {
  const int64_t sample = blockIdx.x / length, position = blockIdx.x % length;
  const T *from_row = static_cast<const T *>(x.data) + sample * x.batch_stride +
                      position * x.position_stride;
  T *to_row = static_cast<T *>(y.data) + sample * y.batch_stride + position * y.position_stride;
  const float *cos_row = cos + sample * table_batch_stride + position * turned;
  const float *sin_row = sin + sample * table_batch_stride + position * turned;
  const int pairs = turned / 2, half = pairs / spans, units = (size - pairs) / count;
  for (int task = threadIdx.x; task < heads * units; task += kThreads) {
    const int head = task / units, unit = task % units * count;
    const T *from = from_row + head * x.head_stride;
    T *to = to_row + head * y.head_stride;
    if (unit >= pairs) {
      write(to + pairs + unit, read<count>(from + pairs + unit));
      continue;
    }
    const int first = unit / half * 2 * half + unit % half, second = first + half;
    auto left = read<count>(from + first), right = read<count>(from + second);
#pragma unroll
    for (int j = 0; j < count; ++j) {
      const float c = cos_row[first + j], s = sign * sin_row[first + j];
      const float a = to_float(left.of[j]), b = to_float(right.of[j]);
      left.of[j] = from_float<T>(a * c - b * s);
      right.of[j] = from_float<T>(b * c + a * s);
    }
    write(to + first, left);
    write(to + second, right);
  }
}

// Whether heads can be read in packs of `count` elements.
static bool fits(const llm_ops_heads &heads, int64_t count) {
  return is_aligned(heads.data) && heads.batch_stride % count == 0 &&
         heads.position_stride % count == 0 && heads.head_stride % count == 0;
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
  constexpr int64_t kMostFeatures = 1 << 30;
  LLM_OPS_CHECK(check(batch * length <= kMostBlocks && heads * size <= kMostFeatures,
                      LLM_OPS_BAD_SHAPE));
  if (batch * length * heads == 0) { return LLM_OPS_OK; }
  LLM_OPS_CHECK(check(x.data && y.data && cos && sin, LLM_OPS_NULL_POINTER));
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int64_t kCount = kBytesOfPack / sizeof(T);
    const bool packed = turned / 2 / spans % kCount == 0 && (size - turned) % kCount == 0 &&
                        fits(x, kCount) && fits(y, kCount);
    return launch(packed ? rotary<T, kCount> : rotary<T, 1>, dim3(batch * length), kThreads, 0,
                  stream, length, heads, size, turned, spans, x, cos, sin, table_batch_stride,
                  sign, y);
  });
}
