// What every function of the interface does: check, choose a dtype, queue a kernel.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "llm_ops.h"

namespace llm_ops {

constexpr int kWarp = 32;
constexpr int kThreads = 128;
constexpr int64_t kMostBlocks = 2147483647;  // of a grid's first dimension
constexpr int64_t kMostOfOtherDimensions = 65535;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Returns the status of `check` from the calling function if it isn't 0.
#define LLM_OPS_CHECK(check)                     \
  do {                                           \
    if (int status = (check)) { return status; } \
  } while (false)

inline int check(bool holds, llm_ops_status status) { return holds ? LLM_OPS_OK : status; }

inline int check_matrix(const llm_ops_matrix &matrix, int64_t width) {
  LLM_OPS_CHECK(check(matrix.data != nullptr, LLM_OPS_NULL_POINTER));
  return check(matrix.stride >= width, LLM_OPS_BAD_STRIDE);
}

// Of a matrix whose pointer may be NULL.
inline int check_optional(const llm_ops_matrix &matrix, int64_t width) {
  return matrix.data ? check_matrix(matrix, width) : LLM_OPS_OK;
}

// Calls function(T{}) with the type of `dtype`.
template <class Function>
int with_dtype(llm_ops_dtype dtype, Function function) {
  switch (dtype) {
    case LLM_OPS_FLOAT32:
      return function(float{});
    case LLM_OPS_BFLOAT16:
      return function(__nv_bfloat16{});
    case LLM_OPS_FLOAT16:
      return function(__half{});
  }
  return LLM_OPS_UNSUPPORTED_DTYPE;
}

template <class T>
struct Same {
  using type = T;
};

// Queues kernel(arguments...) with `shared` bytes of dynamic shared memory.
template <class... Parameters>
int launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared, void *stream,
           typename Same<Parameters>::type... arguments) {
  constexpr size_t kAlwaysAllowed = 48 * 1024;
  if (shared > kAlwaysAllowed &&
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(shared)) != cudaSuccess) {
    return LLM_OPS_LAUNCH_FAILED;
  }
  void *pointers[] = {&arguments...};
  const cudaError_t error = cudaLaunchKernel(kernel, grid, dim3(threads), pointers, shared,
                                             static_cast<cudaStream_t>(stream));
  return check(error == cudaSuccess, LLM_OPS_LAUNCH_FAILED);
}

}  // namespace llm_ops
