// Where a tensor of Paddle is, and what its work is queued on. external_ops/gpu/emulation has the same
// for the emulated device.
#pragma once
#include "paddle/extension.h"

namespace llm_ops {

inline bool is_on_device(const paddle::Tensor &tensor) { return tensor.is_gpu(); }
inline void *stream_of(const paddle::Tensor &tensor) { return tensor.stream(); }

}  // namespace llm_ops
