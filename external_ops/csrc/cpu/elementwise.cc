// Sums of values and of squares.
#include <algorithm>
#include <vector>

#include "status.h"
#include "vector_math.h"

namespace llm {
namespace {

constexpr int64_t kChunk = 1 << 14;

LLM_INLINE void add_body(int64_t count, const float *a, const float *b, float *sum) {
  for (int64_t i = 0; i < count; ++i) sum[i] = a[i] + b[i];
}
constexpr Dispatched<add_body> add;

LLM_INLINE double squares_body(int64_t count, const float *x) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(x[i]) * x[i];
  return sum;
}
constexpr Dispatched<squares_body> squares;

}  // namespace
}  // namespace llm

int llm_cpu_add(int64_t count, const void *x, llm_dtype dtype, const void *other,
                llm_dtype other_dtype, void *y) {
  using namespace llm;
  return guarded([&] {
    require(count >= 0, "a negative count");
#pragma omp parallel
    {
      std::vector<float> buffer(3 * kChunk);
      float *spare = buffer.data();
#pragma omp for schedule(static)
      for (int64_t begin = 0; begin < count; begin += kChunk) {
        const int64_t size = std::min(kChunk, count - begin);
        const float *left = load(at(x, begin, dtype), size, dtype, spare);
        const float *right = load(at(other, begin, other_dtype), size, other_dtype, spare + kChunk);
        float *sum = place(at(y, begin, dtype), dtype, spare + 2 * kChunk);
        add(size, left, right, sum);
        store(at(y, begin, dtype), size, dtype, sum);
      }
    }
  });
}

int llm_cpu_sum_of_squares(int64_t count, const void *x, llm_dtype dtype, double *sum) {
  using namespace llm;
  return guarded([&] {
    require(count >= 0, "a negative count");
    const int64_t chunks = (count + kChunk - 1) / kChunk;
    std::vector<double> parts(chunks);
#pragma omp parallel
    {
      std::vector<float> buffer(kChunk);
#pragma omp for schedule(static)
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t begin = chunk * kChunk, size = std::min(kChunk, count - begin);
        parts[chunk] = squares(size, load(at(x, begin, dtype), size, dtype, buffer.data()));
      }
    }
    *sum = 0.0;
    for (const double part : parts) *sum += part;
  });
}
