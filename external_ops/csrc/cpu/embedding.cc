// The gradient of a table of vectors.
#include <omp.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "status.h"
#include "vector_math.h"

int llm_cpu_embedding_backward(int64_t count, int64_t entries, int64_t width, const int64_t *ids,
                               const void *dy, llm_dtype dtype, void *dtable,
                               llm_dtype table_dtype, int accumulate) {
  using namespace llm;
  return guarded([&] {
    require(count >= 0 && entries > 0 && width > 0, "a table of no size");
    for (int64_t i = 0; i < count; ++i) {
      require(ids[i] >= 0 && ids[i] < entries, "an id outside the table");
    }
    // Positions by their ids, and of one id in their order: so no sum depends on the threads.
    std::vector<int64_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return ids[a] < ids[b]; });
    const int64_t row_bytes = width * bytes_of(table_dtype);
#pragma omp parallel
    {
      std::vector<float> buffer(2 * width);
      float *sum = buffer.data(), *spare = sum + width;
      const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
      const int64_t first = entries * thread / threads, end = entries * (thread + 1) / threads;
      if (!accumulate) {
        std::memset(at(dtable, first * width, table_dtype), 0, (end - first) * row_bytes);
      }
      auto next = std::lower_bound(order.begin(), order.end(), first,
                                   [&](int64_t position, int64_t id) { return ids[position] < id; });
      while (next != order.end() && ids[*next] < end) {
        const int64_t id = ids[*next];
        void *row = at(dtable, id * width, table_dtype);
        const float *before = load(row, width, table_dtype, spare);
        std::copy(before, before + width, sum);
        for (; next != order.end() && ids[*next] == id; ++next) {
          add_to(width, load(at(dy, *next * width, dtype), width, dtype, spare), sum);
        }
        if (table_dtype == LLM_FLOAT32) std::memcpy(row, sum, row_bytes);
        store(row, width, table_dtype, sum);
      }
    }
  });
}
