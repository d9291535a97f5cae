// csrc/paddle_cuda/paddle_device.h where the device is emulated: its memory is the CPU's.
#pragma once
#include "paddle/extension.h"

namespace llm_ops {

inline bool is_on_device(const paddle::Tensor &tensor) { return tensor.is_cpu(); }
inline void *stream_of(const paddle::Tensor &) { return nullptr; }

}  // namespace llm_ops
