// What a status means.
#include "llm_ops.h"

const char *llm_ops_error_string(int status) {
  switch (status) {
    case LLM_OPS_OK:
      return "no error";
    case LLM_OPS_NULL_POINTER:
      return "a pointer is NULL that must not be";
    case LLM_OPS_BAD_SHAPE:
      return "a shape is negative, too large for a grid, or sizes don't fit each other: key_heads "
             "divides heads, 2 · spans divides turned, turned is at most size";
    case LLM_OPS_BAD_STRIDE:
      return "the stride of rows is less than their width";
    case LLM_OPS_UNSUPPORTED_DTYPE:
      return "no such dtype here: flash attention takes bfloat16 and float16, the others float32, "
             "too";
    case LLM_OPS_UNSUPPORTED_HEAD_SIZE:
      return "flash attention takes heads of 64, 80, 96 or 128 features";
    case LLM_OPS_MISALIGNED:
      return "flash attention needs pointers aligned to 16 bytes and strides that are multiples of "
             "8 elements";
    case LLM_OPS_LAUNCH_FAILED:
      return "CUDA refused a kernel: is there a device of compute capability 8.0, or 9.0, and did "
             "earlier work succeed?";
    case LLM_OPS_BAD_OPTION:
      return "an option has a value that doesn't exist: sign is 1 or -1, kinds of activation are 0 "
             "to 3, corrections are positive";
  }
  return "not a status of llm_ops";
}

int llm_ops_interface(void) { return 2; }
