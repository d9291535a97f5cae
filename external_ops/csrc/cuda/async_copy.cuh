// Copies from device to shared memory that go on while a thread computes (PTX ISA, "cp.async").
#pragma once
#include <cuda_runtime.h>

namespace llm_ops {

// Begins to copy 16 aligned bytes, or to write zeros where they are not `given`.
__device__ inline void begin_copy(void *to, const void *from, bool given) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(from),
               "r"(given ? 16 : 0)
               : "memory");
}

// Waits for this thread's copies; those of others have arrived after a barrier.
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;\n" ::: "memory"); }

}  // namespace llm_ops
