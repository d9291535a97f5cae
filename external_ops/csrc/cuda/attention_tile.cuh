// Tiles of queries and keys in shared memory, and the fragments that a warp reads of them.
#pragma once
#include <string.h>

// In angle brackets: a test puts files for the CPU in their place.
#include <async_copy.cuh>
#include <tensor_core.cuh>

#include "launch.cuh"
#include "numbers.cuh"

namespace llm_ops {

constexpr int kWarps = kThreads / kWarp;
constexpr int kRowsOfWarp = 16;                   // of a product on the tensor cores
constexpr int kRows = kWarps * kRowsOfWarp;       // of a block: each warp has its own 16
constexpr int kColumns = 8;                       // of a product
constexpr int kDepth = 16;                        // that a product sums over

// Rows of a tile lie so far apart that eight of them start in different banks.
constexpr __host__ __device__ int row_stride(int size) { return size + 8; }

// This thread's place in a fragment, see tensor_core.cuh.
__device__ inline int fragment_row() { return threadIdx.x % kWarp / 4; }
__device__ inline int fragment_column() { return threadIdx.x % 4 * 2; }

template <class T>
__device__ unsigned pack(T low, T high) {
  const T both[2] = {low, high};
  unsigned packed;
  memcpy(&packed, both, sizeof(packed));
  return packed;
}

// Elements of 16 bytes.
constexpr int kOfCopy = 8;

// The heads' rows `first` to first + rows, zeros from `length` on. All threads of the block copy.
template <class T, int size>
__device__ void load_tile(T *tile, int rows, const T *head, int64_t position_stride, int64_t first,
                          int64_t length) {
  constexpr int kCopies = size / kOfCopy;
  for (int i = threadIdx.x; i < rows * kCopies; i += kThreads) {
    const int row = i / kCopies, column = i % kCopies * kOfCopy;
    int4 values = make_int4(0, 0, 0, 0);
    if (first + row < length) {
      values = *reinterpret_cast<const int4 *>(head + (first + row) * position_stride + column);
    }
    *reinterpret_cast<int4 *>(tile + row * row_stride(size) + column) = values;
  }
}

// The same, going on until wait_for_copies.
template <class T, int size>
__device__ void begin_tile(T *tile, int rows, const T *head, int64_t position_stride, int64_t first,
                           int64_t length) {
  constexpr int kCopies = size / kOfCopy;
  for (int i = threadIdx.x; i < rows * kCopies; i += kThreads) {
    const int row = i / kCopies, column = i % kCopies * kOfCopy;
    const bool given = first + row < length;
    const T *from = head + (given ? (first + row) * position_stride + column : 0);
    begin_copy(tile + row * row_stride(size) + column, from, given);
  }
}

// a [16, 16] from `row` and `column` of a tile.
template <class T, int size>
__device__ void read_left(unsigned (&a)[4], const T *tile, int row, int column) {
  const int lane = threadIdx.x % kWarp;
  read_matrices<false>(a, tile + (row + lane % 16) * row_stride(size) + column + lane / 16 * 8);
}

// Two b [16, 8] side by side are the transpose of [16, 16] from `row` and `column` of a tile.
template <class T, int size>
__device__ void read_right_transposed(unsigned (&b)[2][2], const T *tile, int row, int column) {
  const int lane = threadIdx.x % kWarp;
  const int below = lane / 16 * 8 + lane % 8, beside = lane / 8 % 2 * 8;
  unsigned both[4];
  read_matrices<false>(both, tile + (row + below) * row_stride(size) + column + beside);
  b[0][0] = both[0], b[0][1] = both[1], b[1][0] = both[2], b[1][1] = both[3];
}

// Two b [16, 8] side by side from `row` and `column` of a tile.
template <class T, int size>
__device__ void read_right(unsigned (&b)[2][2], const T *tile, int row, int column) {
  const int lane = threadIdx.x % kWarp;
  unsigned both[4];
  read_matrices<true>(both, tile + (row + lane % 16) * row_stride(size) + column + lane / 16 * 8);
  b[0][0] = both[0], b[0][1] = both[1], b[1][0] = both[2], b[1][1] = both[3];
}

// c of two neighbouring products += a b.
template <class T>
__device__ void multiply_add_two(float (&left)[4], float (&right)[4], const unsigned (&a)[4],
                                 const unsigned (&b)[2][2]) {
  multiply_add<T>(left, a, b[0]);
  multiply_add<T>(right, a, b[1]);
}

// a [16, 16] out of two results c [16, 8] that lie side by side: a lane has what it needs.
template <class T>
__device__ void left_of_results(unsigned (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = pack(from_float<T>(left[0]), from_float<T>(left[1]));
  a[1] = pack(from_float<T>(left[2]), from_float<T>(left[3]));
  a[2] = pack(from_float<T>(right[0]), from_float<T>(right[1]));
  a[3] = pack(from_float<T>(right[2]), from_float<T>(right[3]));
}

// Results c of a warp, times the factors of its rows g and g + 8, as rows of a head.
template <class T, int size>
__device__ void write_results(T *head, int64_t position_stride, int64_t first, int64_t length,
                              const float (&c)[size / kColumns][4], float factor, float factor8) {
  const int64_t row = first + threadIdx.x / kWarp * kRowsOfWarp + fragment_row();
#pragma unroll
  for (int n = 0; n < size / kColumns; ++n) {
    T *at = head + row * position_stride + n * kColumns + fragment_column();
    if (row < length) {
      *reinterpret_cast<unsigned *>(at) =
          pack(from_float<T>(c[n][0] * factor), from_float<T>(c[n][1] * factor));
    }
    if (row + 8 < length) {
      *reinterpret_cast<unsigned *>(at + 8 * position_stride) =
          pack(from_float<T>(c[n][2] * factor8), from_float<T>(c[n][3] * factor8));
    }
  }
}

template <class T>
__device__ T *head_of(const llm_ops_heads &heads, int64_t sample, int64_t head) {
  return static_cast<T *>(heads.data) + sample * heads.batch_stride + head * heads.head_stride;
}

}  // namespace llm_ops
