// The activations of the feed-forward layers, with or without a gate (Shazeer, arXiv:2002.05202).
// Columns of blocks have the rows; the threads of a column go through its packs.
#include "packs.cuh"

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
__device__ T *row_of(const llm_ops_matrix &matrix) {
  return static_cast<T *>(matrix.data) + blockIdx.x * matrix.stride;
}

__device__ inline int64_t first_pack() {
  return static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
}
__device__ inline int64_t packs_of_step() {
  return static_cast<int64_t>(gridDim.y) * blockDim.x;
}

template <class T, int count>
__global__ void activation(int64_t width, llm_ops_activation_kind kind, llm_ops_matrix x,
                           llm_ops_matrix up, llm_ops_matrix y) {
  for (int64_t i = first_pack() * count; i < width; i += packs_of_step() * count) {
    Pack<T, count> values = read<count>(row_of<T>(x) + i), gates{};
    if (up.data) { gates = read<count>(row_of<T>(up) + i); }
#pragma unroll
    for (int j = 0; j < count; ++j) {
      const float value = activate(kind, to_float(values.of[j])).value;
      values.of[j] = from_float<T>(up.data ? value * to_float(gates.of[j]) : value);
    }
    write(row_of<T>(y) + i, values);
  }
}

template <class T, int count>
__global__ void activation_backward(int64_t width, llm_ops_activation_kind kind,
                                    llm_ops_matrix dy, llm_ops_matrix x, llm_ops_matrix up,
                                    llm_ops_matrix dx, llm_ops_matrix dup) {
  for (int64_t i = first_pack() * count; i < width; i += packs_of_step() * count) {
    // All is read before anything is written: results may lie where operands did.
    const auto gradients = read<count>(row_of<T>(dy) + i);
    auto values = read<count>(row_of<T>(x) + i);
    Pack<T, count> gates{};
    if (up.data) { gates = read<count>(row_of<T>(up) + i); }
#pragma unroll
    for (int j = 0; j < count; ++j) {
      const float gradient = to_float(gradients.of[j]);
      const float factor = up.data ? to_float(gates.of[j]) : 1;
      const ValueAndSlope f = activate(kind, to_float(values.of[j]));
      gates.of[j] = from_float<T>(gradient * f.value);
      values.of[j] = from_float<T>(gradient * factor * f.slope);
    }
    if (up.data) { write(row_of<T>(dup) + i, gates); }
    write(row_of<T>(dx) + i, values);
  }
}

static int check_operands(int64_t rows, int64_t width, llm_ops_activation_kind kind) {
  LLM_OPS_CHECK(check(rows >= 0 && width >= 0, LLM_OPS_BAD_SHAPE));
  LLM_OPS_CHECK(check(rows <= kMostBlocks, LLM_OPS_BAD_SHAPE));
  const int number = static_cast<int>(kind);
  return check(number >= LLM_OPS_SILU && number <= LLM_OPS_RELU, LLM_OPS_BAD_OPTION);
}

static dim3 grid_of(int64_t rows, int64_t packs) {
  const int64_t blocks = ceil_div(packs, kThreads);
  return dim3(rows, blocks < kMostOfOtherDimensions ? blocks : kMostOfOtherDimensions);
}

}  // namespace llm_ops

using namespace llm_ops;

int llm_ops_activation(int64_t rows, int64_t width, llm_ops_activation_kind kind,
                       llm_ops_dtype dtype, llm_ops_matrix x, llm_ops_matrix up, llm_ops_matrix y,
                       void *stream) {
  LLM_OPS_CHECK(check_operands(rows, width, kind));
  if (rows == 0 || width == 0) { return LLM_OPS_OK; }
  LLM_OPS_CHECK(check_matrix(x, width));
  LLM_OPS_CHECK(check_optional(up, width));
  LLM_OPS_CHECK(check_matrix(y, width));
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return with_packs<T>(width, {x, up, y}, {}, [&](auto pack) {
      constexpr int count = decltype(pack)::value;
      return launch(activation<T, count>, grid_of(rows, width / count), kThreads, 0, stream, width,
                    kind, x, up, y);
    });
  });
}

int llm_ops_activation_backward(int64_t rows, int64_t width, llm_ops_activation_kind kind,
                                llm_ops_dtype dtype, llm_ops_matrix dy, llm_ops_matrix x,
                                llm_ops_matrix up, llm_ops_matrix dx, llm_ops_matrix dup,
                                void *stream) {
  LLM_OPS_CHECK(check_operands(rows, width, kind));
  if (rows == 0 || width == 0) { return LLM_OPS_OK; }
  LLM_OPS_CHECK(check_matrix(dy, width));
  LLM_OPS_CHECK(check_matrix(x, width));
  LLM_OPS_CHECK(check_optional(up, width));
  LLM_OPS_CHECK(check_matrix(dx, width));
  if (up.data) { LLM_OPS_CHECK(check_matrix(dup, width)); }
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return with_packs<T>(width, {dy, x, up, dx, dup}, {}, [&](auto pack) {
      constexpr int count = decltype(pack)::value;
      return launch(activation_backward<T, count>, grid_of(rows, width / count), kThreads, 0,
                    stream, width, kind, dy, x, up, dx, dup);
    });
  });
}
