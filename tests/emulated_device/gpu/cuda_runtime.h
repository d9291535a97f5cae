// A device of CUDA whose kernels a stream of the emulated device runs, behind the host's back. They
// run one at a time, as the emulated threads and blocks are the process's (external_ops/gpu/emulation).
#pragma once
#define cudaLaunchKernel launch_at_once
#include "../../../external_ops/gpu/emulation/cuda_runtime.h"
#undef cudaLaunchKernel

#include <memory>
#include <mutex>

#include "operation.h"

namespace emulation {
inline std::mutex running;

template <class... Parameters, size_t... indices>
std::tuple<Parameters...> copied(void **arguments, std::index_sequence<indices...>) {
  return {*static_cast<Parameters *>(arguments[indices])...};
}
}  // namespace emulation

template <class... Parameters>
cudaError_t cudaLaunchKernel(void (*kernel)(Parameters...), dim3 grid, dim3 threads, void **arguments,
                             size_t shared_bytes, cudaStream_t stream) {
  // As with CUDA, the arguments are copied: the caller's may be gone when the kernel runs.
  auto values = emulation::copied<Parameters...>(arguments, std::index_sequence_for<Parameters...>{});
  emulated_gpu::queue(stream, [=]() mutable {
    std::lock_guard<std::mutex> lock(emulation::running);
    std::apply(
        [&](auto &...each) {
          void *pointers[] = {&each...};
          launch_at_once(kernel, grid, threads, pointers, shared_bytes, nullptr);
        },
        values);
  });
  return cudaSuccess;
}
