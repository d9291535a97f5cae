// Products compiled by oneDNN.
#pragma once
#include "matmul.h"

namespace llm {

// Whether oneDNN multiplies bfloat16 on this processor: it does from AVX-512 on.
bool multiplies_bfloat16();

// As `matmul`; operands of bfloat16 only where they are multiplied.
void multiply(int64_t m, int64_t n, int64_t k, const Operand &a, const Operand &b, llm_dtype dtype,
              const float *bias, void *c, int64_t c_stride, llm_dtype c_dtype, bool accumulate);

// b [k, n], of either type, in bfloat16 and in the order in which products with m rows read it.
int64_t packed_bytes(int64_t m, int64_t n, int64_t k);
void pack(int64_t m, int64_t n, int64_t k, const Operand &b, llm_dtype dtype, void *packed);

}  // namespace llm
