// RMSNorm (arXiv:1910.07467) and LayerNorm (arXiv:1607.06450) over the last axis, in float32.
#include <omp.h>

#include <algorithm>
#include <vector>

#include "status.h"
#include "vector_math.h"

namespace llm {
namespace {

// sum(a)
LLM_INLINE float sum_of_body(int64_t width, const float *a) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) sum += a[i];
  return sum;
}
constexpr Dispatched<sum_of_body> sum_of;

LLM_INLINE void add_rows_body(int64_t width, const float *a, const float *b, float *sum) {
  for (int64_t i = 0; i < width; ++i) sum[i] = a[i] + b[i];
}
constexpr Dispatched<add_rows_body> add_rows;

LLM_INLINE void scale_row_body(int64_t width, const float *x, float factor, const float *weight,
                               float *y) {
  for (int64_t i = 0; i < width; ++i) y[i] = x[i] * factor * weight[i];
}
constexpr Dispatched<scale_row_body> scale_row;

// n = (x - mean) · inverse; y = n · weight + bias
LLM_INLINE void normalise_row_body(int64_t width, const float *x, float mean, float inverse,
                                   const float *weight, const float *bias, float *y) {
  for (int64_t i = 0; i < width; ++i) y[i] = (x[i] - mean) * inverse * weight[i] + bias[i];
}
constexpr Dispatched<normalise_row_body> normalise_row;

LLM_INLINE float squares_around_body(int64_t width, const float *x, float mean) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) sum += (x[i] - mean) * (x[i] - mean);
  return sum;
}
constexpr Dispatched<squares_around_body> squares_around;

// Sums over a row of h and of h · n.
struct RowSums {
  float h, hn;
};

// h = dy · weight and n = (x - mean) · inverse; dweight += dy · n, dbias += dy where given.
LLM_INLINE RowSums backward_terms_body(int64_t width, const float *__restrict dy,
                                       const float *__restrict x, float mean, float inverse,
                                       const float *__restrict weight, float *__restrict h,
                                       float *__restrict n, float *__restrict dweight,
                                       float *__restrict dbias) {
  float h_sum = 0.0f, hn_sum = 0.0f;
#pragma omp simd reduction(+ : h_sum, hn_sum)
  for (int64_t i = 0; i < width; ++i) {
    n[i] = (x[i] - mean) * inverse;
    h[i] = dy[i] * weight[i];
    dweight[i] += dy[i] * n[i];
    h_sum += h[i];
    hn_sum += h[i] * n[i];
  }
  if (dbias != nullptr)
    for (int64_t i = 0; i < width; ++i) dbias[i] += dy[i];
  return {h_sum, hn_sum};
}
constexpr Dispatched<backward_terms_body> backward_terms;

// dx = (h - mean_h - n · mean_hn) · inverse (+ dsum)
LLM_INLINE void backward_row_body(int64_t width, const float *__restrict h,
                                  const float *__restrict n, float mean_h, float mean_hn,
                                  float inverse, const float *dsum, float *dx) {
  if (dsum == nullptr) {
    for (int64_t i = 0; i < width; ++i) dx[i] = (h[i] - mean_h - n[i] * mean_hn) * inverse;
  } else {
    for (int64_t i = 0; i < width; ++i)
      dx[i] = (h[i] - mean_h - n[i] * mean_hn) * inverse + dsum[i];
  }
}
constexpr Dispatched<backward_row_body> backward_row;

// Both norms' backward pass; means and dbias are null for RMSNorm, whose mean counts as 0. Each
// thread sums the weights' gradients of its rows, and the threads' sums are added in their order.
void backward(int64_t rows, int64_t width, const void *dy, const void *x, llm_dtype dtype,
              const float *weight, const float *means, const float *inverses, const void *dsum,
              void *dx, float *dweight, float *dbias) {
  const int threads = omp_get_max_threads();
  const int64_t per_thread = 2 * width;
  std::vector<float> gradients(threads * per_thread, 0.0f);
#pragma omp parallel num_threads(threads)
  {
    float *mine = gradients.data() + omp_get_thread_num() * per_thread;
    std::vector<float> buffer(6 * width);
    float *h = buffer.data(), *n = h + width, *spare = n + width;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t first = row * width;
      const float *dy_row = load(at(dy, first, dtype), width, dtype, spare);
      const float *x_row = load(at(x, first, dtype), width, dtype, spare + width);
      const float mean = means == nullptr ? 0.0f : means[row];
      const RowSums sums = backward_terms(width, dy_row, x_row, mean, inverses[row], weight, h, n,
                                          mine, dbias == nullptr ? nullptr : mine + width);
      // RMSNorm subtracts no mean.
      const float mean_h = means == nullptr ? 0.0f : sums.h / width;
      const float mean_hn = sums.hn / width;
      const float *dsum_row =
          dsum == nullptr ? nullptr
                          : load(at(dsum, first, dtype), width, dtype, spare + 2 * width);
      float *dx_row = place(at(dx, first, dtype), dtype, spare + 3 * width);
      backward_row(width, h, n, mean_h, mean_hn, inverses[row], dsum_row, dx_row);
      store(at(dx, first, dtype), width, dtype, dx_row);
    }
  }
  std::fill(dweight, dweight + width, 0.0f);
  if (dbias != nullptr) std::fill(dbias, dbias + width, 0.0f);
  for (int thread = 0; thread < threads; ++thread) {
    add_to(width, gradients.data() + thread * per_thread, dweight);
    if (dbias != nullptr) add_to(width, gradients.data() + thread * per_thread + width, dbias);
  }
}

// What a row of the forward pass is given besides x and y.
struct Forward {
  const float *weight, *bias;
  float epsilon;
  float *mean, *inverse;
};

// Both norms' forward pass; mean and bias are null for RMSNorm.
void forward(int64_t rows, int64_t width, const void *x, const void *residual,
             llm_dtype residual_dtype, void *sum, llm_dtype dtype, const Forward &given, void *y) {
  require(rows >= 0 && width > 0, "a norm over nothing");
  require(residual == nullptr || sum != nullptr, "a residual needs a place for its sum");
#pragma omp parallel
  {
    std::vector<float> buffer(4 * width);
    float *spare = buffer.data();
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t first = row * width;
      const float *x_row = load(at(x, first, dtype), width, dtype, spare);
      if (residual != nullptr) {
        const float *other = load(at(residual, first, residual_dtype), width, residual_dtype, spare + width);
        float *sum_row = place(at(sum, first, dtype), dtype, spare + 2 * width);
        add_rows(width, x_row, other, sum_row);
        store(at(sum, first, dtype), width, dtype, sum_row);
        // What is normalised is what is kept, rounded.
        x_row = load(at(sum, first, dtype), width, dtype, spare);
      }
      float *y_row = place(at(y, first, dtype), dtype, spare + 3 * width);
      const float mean = given.mean == nullptr ? 0.0f : sum_of(width, x_row) / width;
      const float variance = squares_around(width, x_row, mean) / width;
      const float inverse = 1.0f / std::sqrt(variance + given.epsilon);
      given.inverse[row] = inverse;
      if (given.mean == nullptr) {
        scale_row(width, x_row, inverse, given.weight, y_row);
      } else {
        given.mean[row] = mean;
        normalise_row(width, x_row, mean, inverse, given.weight, given.bias, y_row);
      }
      store(at(y, first, dtype), width, dtype, y_row);
    }
  }
}

}  // namespace
}  // namespace llm

int llm_cpu_rms_norm(int64_t rows, int64_t width, const void *x, const void *residual,
                     llm_dtype residual_dtype, void *sum, llm_dtype dtype, const float *weight,
                     float epsilon, void *y, float *inverse) {
  using namespace llm;
  return guarded([&] {
    const Forward given{weight, nullptr, epsilon, nullptr, inverse};
    forward(rows, width, x, residual, residual_dtype, sum, dtype, given, y);
  });
}

int llm_cpu_rms_norm_backward(int64_t rows, int64_t width, const void *dy, const void *x,
                              llm_dtype dtype, const float *weight, const float *inverse,
                              const void *dsum, void *dx, float *dweight) {
  using namespace llm;
  return guarded([&] {
    require(rows >= 0 && width > 0, "a norm over nothing");
    backward(rows, width, dy, x, dtype, weight, nullptr, inverse, dsum, dx, dweight, nullptr);
  });
}

int llm_cpu_layer_norm(int64_t rows, int64_t width, const void *x, const void *residual,
                       llm_dtype residual_dtype, void *sum, llm_dtype dtype, const float *weight,
                       const float *bias, float epsilon, void *y, float *mean, float *inverse) {
  using namespace llm;
  return guarded([&] {
    const Forward given{weight, bias, epsilon, mean, inverse};
    forward(rows, width, x, residual, residual_dtype, sum, dtype, given, y);
  });
}

int llm_cpu_layer_norm_backward(int64_t rows, int64_t width, const void *dy, const void *x,
                                llm_dtype dtype, const float *weight, const float *mean,
                                const float *inverse, const void *dsum, void *dx, float *dweight,
                                float *dbias) {
  using namespace llm;
  return guarded([&] {
    require(rows >= 0 && width > 0, "a norm over nothing");
    backward(rows, width, dy, x, dtype, weight, mean, inverse, dsum, dx, dweight, dbias);
  });
}
