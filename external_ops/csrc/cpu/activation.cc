// Activations and their gated forms (SwiGLU, GEGLU: arXiv:2002.05202), in float32.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "status.h"
#include "vector_math.h"

namespace llm {
namespace {

// What a thread has of each operand at a time: all of it stays in the first cache.
constexpr int64_t kChunk = 1024;

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
struct Point {
  float value, slope;
};

template <llm_activation kind>
LLM_INLINE Point evaluate(float x) {
  if constexpr (kind == LLM_SILU) {
    const float s = sigmoid(x);
    return {x * s, s * (1.0f + x * (1.0f - s))};
  } else if constexpr (kind == LLM_GELU_TANH) {
    const float s = sigmoid(tanh_argument(x));
    const float inner = 1.5957691216f * (1.0f + 0.134145f * x * x);
    return {x * s, s + x * s * (1.0f - s) * inner};
  } else if constexpr (kind == LLM_GELU) {
    const float cdf = normal_cdf(x);
    return {x * cdf, cdf + x * 0.39894228f * exponential(-0.5f * x * x)};
  } else {
    return {x > 0.0f ? x : 0.0f, x > 0.0f ? 1.0f : 0.0f};
  }
}

template <llm_activation kind>
LLM_INLINE void forward_body(int64_t count, const float *__restrict x, const float *__restrict up,
                             float *__restrict y) {
  if (up == nullptr) {
    for (int64_t i = 0; i < count; ++i) y[i] = evaluate<kind>(x[i]).value;
  } else {
    for (int64_t i = 0; i < count; ++i) y[i] = evaluate<kind>(x[i]).value * up[i];
  }
}

template <llm_activation kind>
LLM_INLINE void backward_body(int64_t count, const float *__restrict dy, const float *__restrict x,
                              const float *__restrict up, float *__restrict dx,
                              float *__restrict dup) {
  if (up == nullptr) {
    for (int64_t i = 0; i < count; ++i) dx[i] = evaluate<kind>(x[i]).slope * dy[i];
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const Point point = evaluate<kind>(x[i]);
    dx[i] = point.slope * up[i] * dy[i];
    dup[i] = point.value * dy[i];
  }
}

template <llm_activation kind>
constexpr Dispatched<forward_body<kind>> forward;
template <llm_activation kind>
constexpr Dispatched<backward_body<kind>> backward;

// body(kind), with the kind as a constant of the compiler.
template <class Body>
void with_constant(llm_activation kind, Body body) {
  switch (kind) {
    case LLM_SILU:
      return body(std::integral_constant<llm_activation, LLM_SILU>{});
    case LLM_GELU:
      return body(std::integral_constant<llm_activation, LLM_GELU>{});
    case LLM_GELU_TANH:
      return body(std::integral_constant<llm_activation, LLM_GELU_TANH>{});
    case LLM_RELU:
      return body(std::integral_constant<llm_activation, LLM_RELU>{});
  }
}

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
      std::vector<float> buffer(3 * kChunk);
      float *spare = buffer.data();
#pragma omp for schedule(static)
      for (int64_t begin = 0; begin < count; begin += kChunk) {
        const int64_t size = std::min(kChunk, count - begin);
        const float *values = load(at(x, begin, dtype), size, dtype, spare);
        const float *gate = up == nullptr ? nullptr
                                          : load(at(up, begin, dtype), size, dtype, spare + kChunk);
        float *result = place(at(y, begin, dtype), dtype, spare + 2 * kChunk);
        with_constant(kind, [&](auto known) { forward<known()>(size, values, gate, result); });
        store(at(y, begin, dtype), size, dtype, result);
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
      std::vector<float> buffer(5 * kChunk);
      float *spare = buffer.data();
#pragma omp for schedule(static)
      for (int64_t begin = 0; begin < count; begin += kChunk) {
        const int64_t size = std::min(kChunk, count - begin);
        const float *values = load(at(x, begin, dtype), size, dtype, spare);
        const float *gradient = load(at(dy, begin, dtype), size, dtype, spare + kChunk);
        float *result = place(at(dx, begin, dtype), dtype, spare + 2 * kChunk);
        const float *gate = nullptr;
        float *of_gate = nullptr;
        if (up != nullptr) {
          gate = load(at(up, begin, dtype), size, dtype, spare + 3 * kChunk);
          of_gate = place(at(dup, begin, dtype), dtype, spare + 4 * kChunk);
        }
        with_constant(kind, [&](auto known) {
          backward<known()>(size, gradient, values, gate, result, of_gate);
        });
        store(at(dx, begin, dtype), size, dtype, result);
        if (up != nullptr) store(at(dup, begin, dtype), size, dtype, of_gate);
      }
    }
  });
}
