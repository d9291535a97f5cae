// One product of a warp on the tensor cores: c [16, 8] += a [16, 16] b [16, 8], in float32.
//
// With g = lane / 4 and t = lane % 4 a lane holds, two neighbours in a register, the lower first:
//   a: [g, 2t], [g + 8, 2t], [g, 2t + 8], [g + 8, 2t + 8], each with the column after it
//   b: [2t, g], [2t + 8, g], each with the row below it
//   c: [g, 2t], [g, 2t + 1], [g + 8, 2t], [g + 8, 2t + 1]
// (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type".)
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace llm_ops {

// Four matrices [8, 8] of 16-bit numbers from shared memory. Lane l says where row l % 8 of matrix
// l / 8 is (16 bytes, aligned), and gets, as register i, of matrix i: [g, 2t] and [g, 2t + 1], or
// [2t, g] and [2t + 1, g] where transposed. (PTX ISA, "ldmatrix".)
template <bool transposed>
__device__ inline void read_matrices(unsigned (&registers)[4], const void *row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
  }
}

template <class T>
__device__ void multiply_add(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]);

template <>
__device__ inline void multiply_add<__nv_bfloat16>(float (&c)[4], const unsigned (&a)[4],
                                                   const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ inline void multiply_add<__half>(float (&c)[4], const unsigned (&a)[4],
                                            const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace llm_ops
