// The activations of the feed-forward layers, with or without a gate (Shazeer, arXiv:2002.05202).
#include "launch.cuh"
#include "numbers.cuh"

namespace llm_ops {

constexpr float kSqrtHalf = 0.7071067811865476f;
constexpr float kInverseSqrtTwoPi = 0.3989422804014327f;
constexpr float kSqrtTwoOverPi = 0.7978845608028654f;
constexpr float kCubic = 0.044715f;

struct ValueAndSlope {
  float value, slope;
};

__device__ inline ValueAndSlope activate(llm_ops_activation_kind kind, float x) {
  switch (kind) {
    case LLM_OPS_SILU: {
      const float s = 1 / (1 + expf(-x));
      return {x * s, s * (1 + x * (1 - s))};
    }
    case LLM_OPS_GELU: {
      const float below = 0.5f * (1 + erff(x * kSqrtHalf));  // the normal distribution
      return {x * below, below + x * kInverseSqrtTwoPi * expf(-0.5f * x * x)};
    }
    case LLM_OPS_GELU_TANH: {
      const float t = tanhf(kSqrtTwoOverPi * (x + kCubic * x * x * x));
      const float inner = kSqrtTwoOverPi * (1 + 3 * kCubic * x * x);
      return {0.5f * x * (1 + t), 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * inner};
    }
    case LLM_OPS_RELU:
      return {fmaxf(x, 0), x > 0 ? 1.0f : 0.0f};
  }
  return {0, 0};  // the interface lets no other kind through
}

template <class T>
__global__ void activation(int64_t count, int64_t width, llm_ops_activation_kind kind,
                           llm_ops_matrix x, llm_ops_matrix up, llm_ops_matrix y) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) { return; }
  const int64_t row = i / width, column = i % width;
  float value =
      activate(kind, to_float(static_cast<const T *>(x.data)[row * x.stride + column])).value;
  if (up.data) { value *= to_float(static_cast<const T *>(up.data)[row * up.stride + column]); }
  static_cast<T *>(y.data)[row * y.stride + column] = from_float<T>(value);
}

template <class T>
__global__ void activation_backward(int64_t count, int64_t width, llm_ops_activation_kind kind,
                                    llm_ops_matrix dy, llm_ops_matrix x, llm_ops_matrix up,
                                    llm_ops_matrix dx, llm_ops_matrix dup) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) { return; }
  const int64_t row = i / width, column = i % width;
  // All is read before anything is written: results may lie where operands did.
  const float gradient = to_float(static_cast<const T *>(dy.data)[row * dy.stride + column]);
  const ValueAndSlope f =
      activate(kind, to_float(static_cast<const T *>(x.data)[row * x.stride + column]));
  float factor = 1;
  if (up.data) {
    factor = to_float(static_cast<const T *>(up.data)[row * up.stride + column]);
    static_cast<T *>(dup.data)[row * dup.stride + column] = from_float<T>(gradient * f.value);
  }
  static_cast<T *>(dx.data)[row * dx.stride + column] = from_float<T>(gradient * factor * f.slope);
}

static int check_operands(int64_t rows, int64_t width, llm_ops_activation_kind kind) {
  LLM_OPS_CHECK(check(rows >= 0 && width >= 0, LLM_OPS_BAD_SHAPE));
  LLM_OPS_CHECK(check(ceil_div(rows * width, kThreads) <= kMostBlocks, LLM_OPS_BAD_SHAPE));
  const int number = static_cast<int>(kind);
  return check(number >= LLM_OPS_SILU && number <= LLM_OPS_RELU, LLM_OPS_BAD_OPTION);
}

}  // namespace llm_ops

using namespace llm_ops;

int llm_ops_activation(int64_t rows, int64_t width, llm_ops_activation_kind kind,
                       llm_ops_dtype dtype, llm_ops_matrix x, llm_ops_matrix up, llm_ops_matrix y,
                       void *stream) {
  LLM_OPS_CHECK(check_operands(rows, width, kind));
  const int64_t count = rows * width;
  if (count == 0) { return LLM_OPS_OK; }
  LLM_OPS_CHECK(check_matrix(x, width));
  LLM_OPS_CHECK(check_optional(up, width));
  LLM_OPS_CHECK(check_matrix(y, width));
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(activation<T>, dim3(ceil_div(count, kThreads)), kThreads, 0, stream, count,
                  width, kind, x, up, y);
  });
}

int llm_ops_activation_backward(int64_t rows, int64_t width, llm_ops_activation_kind kind,
                                llm_ops_dtype dtype, llm_ops_matrix dy, llm_ops_matrix x,
                                llm_ops_matrix up, llm_ops_matrix dx, llm_ops_matrix dup,
                                void *stream) {
  LLM_OPS_CHECK(check_operands(rows, width, kind));
  const int64_t count = rows * width;
  if (count == 0) { return LLM_OPS_OK; }
  LLM_OPS_CHECK(check_matrix(dy, width));
  LLM_OPS_CHECK(check_matrix(x, width));
  LLM_OPS_CHECK(check_optional(up, width));
  LLM_OPS_CHECK(check_matrix(dx, width));
  if (up.data) { LLM_OPS_CHECK(check_matrix(dup, width)); }
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(activation_backward<T>, dim3(ceil_div(count, kThreads)), kThreads, 0, stream,
                  count, width, kind, dy, x, up, dx, dup);
  });
}
