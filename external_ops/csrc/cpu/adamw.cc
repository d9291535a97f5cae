// AdamW on a flat tensor.
#include <algorithm>
#include <vector>

#include "status.h"
#include "vector_math.h"

namespace llm {
namespace {

struct Rates {
  float factor, beta1, beta2, epsilon, decay, step, root_correction2;
};

LLM_INLINE void update_body(int64_t count, Rates rates, float *__restrict master,
                            float *__restrict moment1, float *__restrict moment2,
                            const float *__restrict gradient) {
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * rates.factor;
    const float m = rates.beta1 * moment1[i] + (1.0f - rates.beta1) * g;
    const float v = rates.beta2 * moment2[i] + (1.0f - rates.beta2) * g * g;
    moment1[i] = m;
    moment2[i] = v;
    const float denominator = __builtin_sqrtf(v) + rates.epsilon * rates.root_correction2;
    master[i] = master[i] * rates.decay - rates.step * (m / denominator);
  }
}
constexpr Dispatched<update_body> update;

}  // namespace
}  // namespace llm

int llm_cpu_adamw(int64_t count, float *master, float *moment1, float *moment2, const void *gradient,
                  llm_dtype gradient_dtype, void *weights, float factor, float learning_rate,
                  float beta1, float beta2, float epsilon, float weight_decay, float correction1,
                  float correction2) {
  using namespace llm;
  return guarded([&] {
    require(count >= 0, "a negative count");
    require(correction1 > 0.0f && correction2 > 0.0f, "a bias correction that isn't positive");
    const float root = std::sqrt(correction2);
    const Rates rates{factor, beta1, beta2, epsilon, 1.0f - learning_rate * weight_decay,
                      learning_rate * root / correction1, root};
    constexpr int64_t kChunk = 1 << 13;
#pragma omp parallel
    {
      std::vector<float> buffer(kChunk);
#pragma omp for schedule(static)
      for (int64_t begin = 0; begin < count; begin += kChunk) {
        const int64_t size = std::min(kChunk, count - begin);
        const float *gradients =
            load(at(gradient, begin, gradient_dtype), size, gradient_dtype, buffer.data());
        update(size, rates, master + begin, moment1 + begin, moment2 + begin, gradients);
        if (weights != nullptr)
          narrow(size, master + begin, static_cast<uint16_t *>(weights) + begin);
      }
    }
  });
}
