// Rotary position embedding (arXiv:2104.09864), in float32.
#include <vector>

#include "status.h"
#include "vector_math.h"

namespace llm {
namespace {

// One span of one head: (a, b) -> (a cos - sign b sin, b cos + sign a sin).
LLM_INLINE void rotate_halves_body(int64_t half, const float *__restrict x,
                                   const float *__restrict cos, const float *__restrict sin,
                                   float sign, float *__restrict y) {
  for (int64_t i = 0; i < half; ++i) {
    y[i] = x[i] * cos[i] - sign * x[half + i] * sin[i];
    y[half + i] = x[half + i] * cos[half + i] + sign * x[i] * sin[half + i];
  }
}
constexpr Dispatched<rotate_halves_body> rotate_halves;

// Spans of two features, the neighbours of each other.
LLM_INLINE void rotate_neighbours_body(int64_t turned, const float *__restrict x,
                                       const float *__restrict cos, const float *__restrict sin,
                                       float sign, float *__restrict y) {
  for (int64_t i = 0; i < turned; i += 2) {
    y[i] = x[i] * cos[i] - sign * x[i + 1] * sin[i];
    y[i + 1] = x[i + 1] * cos[i + 1] + sign * x[i] * sin[i + 1];
  }
}
constexpr Dispatched<rotate_neighbours_body> rotate_neighbours;

}  // namespace
}  // namespace llm

int llm_cpu_rotary(int64_t batch, int64_t length, int64_t heads, int64_t size, int64_t turned,
                   int64_t spans, const void *x, llm_dtype dtype, const float *cos,
                   const float *sin, int64_t table_batch, float sign, void *y) {
  using namespace llm;
  return guarded([&] {
    require(batch >= 0 && length >= 0 && heads >= 0, "a negative size");
    require(spans > 0 && turned > 0 && turned <= size && turned % (2 * spans) == 0,
            "the rotated features can't be cut into so many pairs of halves");
    require(table_batch == 1 || table_batch == batch, "tables of another batch");
    const int64_t span = turned / spans, half = span / 2;
#pragma omp parallel
    {
      std::vector<float> buffer(2 * size);
#pragma omp for schedule(static)
      for (int64_t row = 0; row < batch * length; ++row) {
        const int64_t line = table_batch == 1 ? row % length : row;
        const float *cos_row = cos + line * turned, *sin_row = sin + line * turned;
        for (int64_t head = 0; head < heads; ++head) {
          const int64_t first = (row * heads + head) * size;
          const float *in = load(at(x, first, dtype), size, dtype, buffer.data());
          void *target = at(y, first, dtype);
          float *out = place(target, dtype, buffer.data() + size);
          if (half == 1) {
            rotate_neighbours(turned, in, cos_row, sin_row, sign, out);
          } else {
            for (int64_t begin = 0; begin < turned; begin += span)
              rotate_halves(half, in + begin, cos_row + begin, sin_row + begin, sign, out + begin);
          }
          for (int64_t i = turned; i < size; ++i) out[i] = in[i];
          store(target, size, dtype, out);
        }
      }
    }
  });
}
