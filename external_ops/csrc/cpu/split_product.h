// Products of float32 on matrix tiles.
#pragma once
#include "matmul.h"

namespace llm {

// Whether tiles multiply these sizes faster than oneDNN does.
bool tiles_are_faster(int64_t m, int64_t n, int64_t k);

// As `matmul`, of float32 and where there are tiles. The same bits for any number of threads, unless
// some number isn't below 2^63 in size: blocks that have it are left to oneDNN.
void multiply_split(int64_t m, int64_t n, int64_t k, const Operand &a, const Operand &b,
                    const float *bias, float *c, int64_t c_stride, bool accumulate);

}  // namespace llm
