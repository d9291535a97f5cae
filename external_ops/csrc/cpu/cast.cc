// Conversion between float32 and bfloat16.
#include <algorithm>

#include "status.h"
#include "vector_math.h"

int llm_cpu_cast(int64_t count, const void *source, llm_dtype from, void *target, llm_dtype to) {
  using namespace llm;
  return guarded([&] {
    require(count >= 0, "a negative count");
    constexpr int64_t kChunk = 1 << 14;
#pragma omp parallel for schedule(static)
    for (int64_t begin = 0; begin < count; begin += kChunk) {
      const int64_t size = std::min(kChunk, count - begin);
      const void *in = at(source, begin, from);
      void *out = at(target, begin, to);
      if (from == to) {
        std::memcpy(out, in, size * bytes_of(from));
      } else if (from == LLM_BFLOAT16) {
        widen(size, static_cast<const uint16_t *>(in), static_cast<float *>(out));
      } else {
        narrow(size, static_cast<const float *>(in), static_cast<uint16_t *>(out));
      }
    }
  });
}
