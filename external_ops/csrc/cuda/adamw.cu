// AdamW (Loshchilov and Hutter, arXiv:1711.05101) over many tensors in one kernel: a column of the
// grid has a tensor, and their addresses travel as an argument.
#include "packs.cuh"

namespace llm_ops {

// Arguments of a kernel may take 4 KiB.
constexpr int64_t kMostTensors = 48;
// More blocks of a tensor than this keep no device busier.
constexpr int64_t kMostBlocksOfTensor = 2048;

struct Entry {
  llm_ops_adamw_tensor arrays;
  bool is_aligned;
};

struct Tensors {
  Entry list[kMostTensors];
};

struct Rates {
  float factor, learning_rate, beta1, beta2, epsilon, correction1, correction2;
};

// A thread has four elements at a time where a tensor's arrays are aligned.
constexpr int kOfThread = 4;

template <class Gradient, class Weight, int count>
__device__ void update(const llm_ops_adamw_tensor &tensor, const Rates &rates) {
  const Gradient *gradient = static_cast<const Gradient *>(tensor.gradient);
  Weight *weights = static_cast<Weight *>(tensor.weights);
  const float kept = 1 - rates.learning_rate * tensor.weight_decay;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = first * count; i < tensor.count; i += step * count) {
    const auto gradients = read<count>(gradient + i);
    auto first_moments = read<count>(tensor.moment1 + i);
    auto second_moments = read<count>(tensor.moment2 + i);
    auto masters = read<count>(tensor.master + i);
    Pack<Weight, count> rounded;
#pragma unroll
    for (int j = 0; j < count; ++j) {
      const float g = rates.factor * to_float(gradients.of[j]);
      const float m1 = rates.beta1 * first_moments.of[j] + (1 - rates.beta1) * g;
      const float m2 = rates.beta2 * second_moments.of[j] + (1 - rates.beta2) * g * g;
      const float root = sqrtf(m2 / rates.correction2) + rates.epsilon;
      const float w =
          masters.of[j] * kept - rates.learning_rate * (m1 / rates.correction1) / root;
      first_moments.of[j] = m1;
      second_moments.of[j] = m2;
      masters.of[j] = w;
      rounded.of[j] = from_float<Weight>(w);
    }
    write(tensor.moment1 + i, first_moments);
    write(tensor.moment2 + i, second_moments);
    write(tensor.master + i, masters);
    if (weights) { write(weights + i, rounded); }
  }
}

template <class Gradient, class Weight>
__global__ void adamw(Tensors tensors, Rates rates) {
  const Entry &tensor = tensors.list[blockIdx.y];
  if (tensor.is_aligned) {
    update<Gradient, Weight, kOfThread>(tensor.arrays, rates);
  } else {
    update<Gradient, Weight, 1>(tensor.arrays, rates);
  }
}

static bool is_aligned(const llm_ops_adamw_tensor &tensor) {
  return tensor.count % kOfThread == 0 && is_aligned(tensor.master) &&
         is_aligned(tensor.moment1) && is_aligned(tensor.moment2) &&
         is_aligned(tensor.gradient) && is_aligned(tensor.weights);
}

static int check_tensor(const llm_ops_adamw_tensor &tensor) {
  LLM_OPS_CHECK(check(tensor.count >= 0, LLM_OPS_BAD_SHAPE));
  const bool given = tensor.master && tensor.moment1 && tensor.moment2 && tensor.gradient;
  return check(given || tensor.count == 0, LLM_OPS_NULL_POINTER);
}

}  // namespace llm_ops

using namespace llm_ops;

int llm_ops_adamw(int64_t tensor_count, const llm_ops_adamw_tensor *tensors,
                  llm_ops_dtype gradient_dtype, llm_ops_dtype weights_dtype, float factor,
                  float learning_rate, float beta1, float beta2, float epsilon, float correction1,
                  float correction2, void *stream) {
  LLM_OPS_CHECK(check(tensor_count >= 0, LLM_OPS_BAD_SHAPE));
  LLM_OPS_CHECK(check(tensors || tensor_count == 0, LLM_OPS_NULL_POINTER));
  LLM_OPS_CHECK(check(correction1 > 0 && correction2 > 0, LLM_OPS_BAD_OPTION));
  for (int64_t i = 0; i < tensor_count; ++i) { LLM_OPS_CHECK(check_tensor(tensors[i])); }
  const Rates rates{factor, learning_rate, beta1, beta2, epsilon, correction1, correction2};
  for (int64_t first = 0; first < tensor_count; first += kMostTensors) {
    const int64_t left = tensor_count - first;
    const int64_t taken = left < kMostTensors ? left : kMostTensors;
    Tensors batch{};
    int64_t largest = 0;
    for (int64_t i = 0; i < taken; ++i) {
      const llm_ops_adamw_tensor &tensor = tensors[first + i];
      batch.list[i] = {tensor, is_aligned(tensor)};
      const int64_t packs = ceil_div(tensor.count, batch.list[i].is_aligned ? kOfThread : 1);
      largest = packs > largest ? packs : largest;
    }
    if (largest == 0) { continue; }
    const int64_t needed = ceil_div(largest, kThreads);
    const int64_t blocks = needed < kMostBlocksOfTensor ? needed : kMostBlocksOfTensor;
    LLM_OPS_CHECK(with_dtype(gradient_dtype, [&](auto zero) {
      using Gradient = decltype(zero);
      return with_dtype(weights_dtype, [&](auto other_zero) {
        using Weight = decltype(other_zero);
        return launch(adamw<Gradient, Weight>, dim3(blocks, taken), kThreads, 0, stream, batch,
                      rates);
      });
    }));
  }
  return LLM_OPS_OK;
}
