// Products on matrix tiles.
#pragma once
#include "matmul.h"

namespace llm {

// Whether tiles multiply these sizes faster than oneDNN does.
bool tiles_are_faster(int64_t m, int64_t n, int64_t k);

// As `matmul`, where there are tiles: the same bits for any number of threads. Blocks of float32 with a
// number that isn't below 2^63 in size are left to oneDNN. A packed b is as `pack_for_tiles` leaves it.
void multiply_on_tiles(int64_t m, int64_t n, int64_t k, const Operand &a, const Operand &b,
                       llm_dtype dtype, const float *bias, void *c, int64_t c_stride,
                       llm_dtype c_dtype, bool accumulate);

// b [k, n], of either type, in bfloat16 and in tiles.
int64_t bytes_for_tiles(int64_t n, int64_t k);
void pack_for_tiles(int64_t n, int64_t k, const Operand &b, llm_dtype dtype, void *packed);

}  // namespace llm
