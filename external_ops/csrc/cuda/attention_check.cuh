// What flash attention asks of its operands, forward and backward.
#pragma once
#include <stdint.h>

#include "attention_tile.cuh"

namespace llm_ops {

inline int check_heads(const llm_ops_heads &heads) {
  LLM_OPS_CHECK(check(heads.data != nullptr, LLM_OPS_NULL_POINTER));
  const bool aligned = reinterpret_cast<uintptr_t>(heads.data) % 16 == 0 &&
                       heads.batch_stride % 8 == 0 && heads.position_stride % 8 == 0 &&
                       heads.head_stride % 8 == 0;
  return check(aligned, LLM_OPS_MISALIGNED);
}

inline int check_attention(int64_t batch, int64_t length, int64_t heads, int64_t key_heads,
                           int64_t size, llm_ops_dtype dtype) {
  const bool fits = batch >= 0 && batch <= kMostOfOtherDimensions && heads >= 0 &&
                    heads <= kMostOfOtherDimensions && key_heads > 0 && heads % key_heads == 0 &&
                    length >= 0 && length <= kMostBlocks &&
                    batch * heads * length / kWarps < kMostBlocks;
  LLM_OPS_CHECK(check(fits, LLM_OPS_BAD_SHAPE));
  LLM_OPS_CHECK(check(size == 64 || size == 80 || size == 96 || size == 128,
                      LLM_OPS_UNSUPPORTED_HEAD_SIZE));
  return check(dtype == LLM_OPS_BFLOAT16 || dtype == LLM_OPS_FLOAT16, LLM_OPS_UNSUPPORTED_DTYPE);
}

template <int size>
struct HeadSize {
  static constexpr int value = size;
};

// Calls function(T{}, HeadSize<size>{}); the arguments have passed check_attention.
template <class Function>
int with_dtype_and_size(llm_ops_dtype dtype, int64_t size, Function function) {
  const auto with_size = [&](auto zero) {
    switch (size) {
      case 64:
        return function(zero, HeadSize<64>{});
      case 80:
        return function(zero, HeadSize<80>{});
      case 96:
        return function(zero, HeadSize<96>{});
    }
    return function(zero, HeadSize<128>{});
  };
  return dtype == LLM_OPS_BFLOAT16 ? with_size(__nv_bfloat16{}) : with_size(__half{});
}

}  // namespace llm_ops
