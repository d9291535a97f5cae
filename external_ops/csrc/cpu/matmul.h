// Matrix products.
#pragma once
#include <cstdint>

#include "llm_ops_cpu.h"

namespace llm {

// An operand [rows, columns] in memory: rows are `stride` elements apart, or columns if transposed.
struct Operand {
  const void *data;
  int64_t stride;
  bool transposed;
  bool packed = false;  // in the order of llm_cpu_pack, without a stride
};

// c [m, n] = a [m, k] b [k, n] (+ bias) (+ c). Inside a parallel region it runs on one thread.
void matmul(int64_t m, int64_t n, int64_t k, Operand a, Operand b, llm_dtype dtype,
            const float *bias, void *c, int64_t c_stride, llm_dtype c_dtype, bool accumulate);

}  // namespace llm
