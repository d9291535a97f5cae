// Activations and their gated forms (SwiGLU, GEGLU: arXiv:2002.05202), in float32.
#include <algorithm>
#include <vector>

#include "status.h"
#include "vector_math.h"

namespace llm {
namespace {

constexpr int64_t kChunk = 4096;

// sqrt(2 / pi) (x + 0.044715 x³), doubled: then 0.5 (1 + tanh(u)) is the sigmoid of this.
LLM_INLINE float tanh_argument(float x) {
  return 1.5957691216f * (x + 0.044715f * x * x * x);
}

// The normal distribution, 0.5 erfc(-x / sqrt(2)), to 1.2e-7 of its value (Press et al., Numerical
// Recipes in C, section 6.2): std::erf is a call, which no vector instruction does.
LLM_INLINE float normal_cdf(float x) {
  const float z = __builtin_fabsf(x) * 0.70710678f, t = 1.0f / (1.0f + 0.5f * z);
  float polynomial = 0.17087277f;
  polynomial = polynomial * t - 0.82215223f;
  polynomial = polynomial * t + 1.48851587f;
  polynomial = polynomial * t - 1.13520398f;
  polynomial = polynomial * t + 0.27886807f;
  polynomial = polynomial * t - 0.18628806f;
  polynomial = polynomial * t + 0.09678418f;
  polynomial = polynomial * t + 0.37409196f;
  polynomial = polynomial * t + 1.00002368f;
  polynomial = polynomial * t - 1.26551223f;
  const float tail = 0.5f * t * exponential(polynomial - z * z);
  return x < 0.0f ? tail : 1.0f - tail;
}

// f(x) and f'(x)
LLM_INLINE void evaluate_body(int64_t count, llm_activation kind, const float *__restrict x,
                              float *__restrict value, float *__restrict slope) {
  switch (kind) {
    case LLM_SILU:
      for (int64_t i = 0; i < count; ++i) {
        const float s = sigmoid(x[i]);
        value[i] = x[i] * s;
        slope[i] = s * (1.0f + x[i] * (1.0f - s));
      }
      break;
    case LLM_GELU_TANH:
      for (int64_t i = 0; i < count; ++i) {
        const float s = sigmoid(tanh_argument(x[i]));
        const float inner = 1.5957691216f * (1.0f + 0.134145f * x[i] * x[i]);
        value[i] = x[i] * s;
        slope[i] = s + x[i] * s * (1.0f - s) * inner;
      }
      break;
    case LLM_GELU:
      for (int64_t i = 0; i < count; ++i) {
        const float cdf = normal_cdf(x[i]);
        value[i] = x[i] * cdf;
        slope[i] = cdf + x[i] * 0.39894228f * exponential(-0.5f * x[i] * x[i]);
      }
      break;
    case LLM_RELU:
      for (int64_t i = 0; i < count; ++i) {
        value[i] = x[i] > 0.0f ? x[i] : 0.0f;
        slope[i] = x[i] > 0.0f ? 1.0f : 0.0f;
      }
      break;
  }
}
constexpr Dispatched<evaluate_body> evaluate;

LLM_INLINE void multiply_body(int64_t count, const float *a, const float *b, float *y) {
  for (int64_t i = 0; i < count; ++i) y[i] = a[i] * b[i];
}
constexpr Dispatched<multiply_body> multiply;

void check(int64_t count, llm_activation kind) {
  require(count >= 0, "a negative count");
  require(kind >= LLM_SILU && kind <= LLM_RELU, "an unknown activation");
}

}  // namespace
}  // namespace llm

int llm_cpu_activation(int64_t count, llm_activation kind, const void *x, const void *up,
                       llm_dtype dtype, void *y) {
  using namespace llm;
  return guarded([&] {
    check(count, kind);
#pragma omp parallel
    {
      std::vector<float> buffer(4 * kChunk);
      float *value = buffer.data(), *slope = value + kChunk, *spare = slope + kChunk;
#pragma omp for schedule(static)
      for (int64_t begin = 0; begin < count; begin += kChunk) {
        const int64_t size = std::min(kChunk, count - begin);
        evaluate(size, kind, load(at(x, begin, dtype), size, dtype, spare), value, slope);
        void *out = at(y, begin, dtype);
        if (up != nullptr) {
          const float *gate = load(at(up, begin, dtype), size, dtype, spare + kChunk);
          multiply(size, value, gate, value);
        }
        if (dtype == LLM_FLOAT32) std::copy(value, value + size, static_cast<float *>(out));
        store(out, size, dtype, value);
      }
    }
  });
}

int llm_cpu_activation_backward(int64_t count, llm_activation kind, const void *dy, const void *x,
                                const void *up, llm_dtype dtype, void *dx, void *dup) {
  using namespace llm;
  return guarded([&] {
    check(count, kind);
    require((up == nullptr) == (dup == nullptr), "a gate needs a place for its gradient");
#pragma omp parallel
    {
      std::vector<float> buffer(6 * kChunk);
      float *value = buffer.data(), *slope = value + kChunk, *spare = slope + kChunk;
#pragma omp for schedule(static)
      for (int64_t begin = 0; begin < count; begin += kChunk) {
        const int64_t size = std::min(kChunk, count - begin);
        evaluate(size, kind, load(at(x, begin, dtype), size, dtype, spare), value, slope);
        const float *gradient = load(at(dy, begin, dtype), size, dtype, spare + kChunk);
        float *result = place(at(dx, begin, dtype), dtype, spare + 3 * kChunk);
        if (up != nullptr) {
          const float *gate = load(at(up, begin, dtype), size, dtype, spare + 2 * kChunk);
          multiply(size, slope, gate, slope);
          multiply(size, value, gradient, value);
          if (dtype == LLM_FLOAT32) {
            std::copy(value, value + size, static_cast<float *>(at(dup, begin, dtype)));
          }
          store(at(dup, begin, dtype), size, dtype, value);
        }
        multiply(size, slope, gradient, result);
        store(at(dx, begin, dtype), size, dtype, result);
      }
    }
  });
}
