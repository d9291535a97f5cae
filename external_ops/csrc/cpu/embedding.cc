// The gradient of a table of vectors.
#include <omp.h>

#include <vector>

#include "status.h"
#include "vector_math.h"

namespace llm {
namespace {

LLM_INLINE void add_body(int64_t count, const float *__restrict source, float *__restrict target) {
  for (int64_t i = 0; i < count; ++i) target[i] += source[i];
}
constexpr Dispatched<add_body> add;

}  // namespace
}  // namespace llm

int llm_cpu_embedding_backward(int64_t count, int64_t entries, int64_t width, const int64_t *ids,
                               const void *dy, llm_dtype dtype, float *dtable) {
  using namespace llm;
  return guarded([&] {
    require(count >= 0 && entries > 0 && width > 0, "a table of no size");
    for (int64_t i = 0; i < count; ++i) {
      require(ids[i] >= 0 && ids[i] < entries, "an id outside the table");
    }
#pragma omp parallel
    {
      // Each entry has one thread, which adds in the order of the ids whatever their number.
      const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
      std::vector<float> buffer(width);
      for (int64_t i = 0; i < count; ++i) {
        if (ids[i] % threads != thread) continue;
        add(width, load(at(dy, i * width, dtype), width, dtype, buffer.data()),
            dtable + ids[i] * width);
      }
    }
  });
}
