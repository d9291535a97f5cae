// csrc/paddle_cuda/paddle_device.h where the GPU is the emulated device.
#pragma once
#include "paddle/extension.h"
#include "paddle/phi/backends/context_pool.h"
#include "paddle/phi/backends/custom/custom_context.h"

namespace llm_ops {

inline bool is_on_device(const paddle::Tensor &tensor) { return tensor.is_custom_device(); }
// The current stream, as phi's GPU tensors have it.
inline void *stream_of(const paddle::Tensor &tensor) {
  auto context = phi::DeviceContextPool::Instance().Get(tensor.place());
  return static_cast<const phi::CustomContext *>(context)->stream();
}

}  // namespace llm_ops

#include "checked_operators.h"  // what the binding calls
