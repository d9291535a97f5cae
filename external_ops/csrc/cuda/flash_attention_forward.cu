// Flash attention (Dao, arXiv:2307.08691), forward: a block has 64 queries of a head, keeps their
// output in registers and goes through the keys, 64 at a time. Values come while scores are computed,
// and the next keys while values are summed.
#include "attention_check.cuh"
#include "attention_mask.cuh"
#include "attention_tile.cuh"

namespace llm_ops {

constexpr int kKeys = 64;

template <class T, int size>
__global__ void __launch_bounds__(kThreads)
    flash_attention(int64_t length, int64_t group, llm_ops_heads q, llm_ops_heads k,
                    llm_ops_heads v, llm_ops_mask mask, float scale, llm_ops_heads y,
                    float *log_sums) {
  extern __shared__ int4 shared[];
  T *queries = reinterpret_cast<T *>(shared);
  T *keys = queries + kRows * row_stride(size);
  T *values = keys + kKeys * row_stride(size);
  const int64_t head = blockIdx.y, sample = blockIdx.z;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRows;
  const Rules rules(mask, length, sample, head);
  const T *key_head = head_of<T>(k, sample, head / group);
  const T *value_head = head_of<T>(v, sample, head / group);
  const int own = threadIdx.x / kWarp * kRowsOfWarp;
  const int64_t query = first + own + fragment_row();  // and query + 8

  float output[size / kColumns][4] = {};
  float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  const int64_t begin_key = rules.first_key(first) / kKeys * kKeys;
  const int64_t end_key = rules.end_key(first + kRows);
  begin_tile<T, size>(queries, kRows, head_of<T>(q, sample, head), q.position_stride, first,
                      length);
  begin_tile<T, size>(keys, kKeys, key_head, k.position_stride, begin_key, length);
  for (int64_t key0 = begin_key; key0 < end_key; key0 += kKeys) {
    wait_for_copies();
    __syncthreads();  // the keys are there, and the previous values have been read
    begin_tile<T, size>(values, kKeys, value_head, v.position_stride, key0, length);

    float scores[kKeys / kColumns][4] = {};
#pragma unroll
    for (int depth = 0; depth < size; depth += kDepth) {
      unsigned a[4], b[2][2];
      read_left<T, size>(a, queries, own, depth);
#pragma unroll
      for (int n = 0; n < kKeys / kColumns; n += 2) {
        read_right_transposed<T, size>(b, keys, n * kColumns, depth);
        multiply_add_two<T>(scores[n], scores[n + 1], a, b);
      }
    }

    const bool all_seen = rules.sees_all(first, first + kRows, key0, key0 + kKeys);
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // rows g and g + 8
      float largest = maximum[half];
#pragma unroll
      for (int n = 0; n < kKeys / kColumns; ++n) {
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          const int64_t row = query + 8 * half;
          const int64_t key = key0 + n * kColumns + fragment_column() + side;
          float &score = scores[n][2 * half + side];
          score = all_seen || rules.sees(row, key) ? score * scale + rules.bias(row, key) : -INFINITY;
          largest = fmaxf(largest, score);
        }
      }
      // The four lanes that share a row.
      largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 2));
      // A row that has seen nothing yet has no largest score to subtract.
      const float subtracted = largest == -INFINITY ? 0 : largest;
      const float factor = expf(maximum[half] - subtracted);
      maximum[half] = largest;
      sum[half] *= factor;
#pragma unroll
      for (int n = 0; n < kKeys / kColumns; ++n) {
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          float &score = scores[n][2 * half + side];
          score = expf(score - subtracted);
          sum[half] += score;  // of this lane's columns
        }
      }
#pragma unroll
      for (int n = 0; n < size / kColumns; ++n) {
        output[n][2 * half] *= factor;
        output[n][2 * half + 1] *= factor;
      }
    }

    wait_for_copies();
    __syncthreads();  // the values are there, and the keys have been read
    if (key0 + kKeys < end_key) {
      begin_tile<T, size>(keys, kKeys, key_head, k.position_stride, key0 + kKeys, length);
    }
#pragma unroll
    for (int depth = 0; depth < kKeys; depth += kDepth) {
      unsigned a[4], b[2][2];
      left_of_results<T>(a, scores[depth / kColumns], scores[depth / kColumns + 1]);
#pragma unroll
      for (int n = 0; n < size / kColumns; n += 2) {
        read_right<T, size>(b, values, depth, n * kColumns);
        multiply_add_two<T>(output[n], output[n + 1], a, b);
      }
    }
  }

  float inverse[2];
  for (int half = 0; half < 2; ++half) {
    float whole = sum[half];
    whole += __shfl_xor_sync(kWholeWarp, whole, 1);
    whole += __shfl_xor_sync(kWholeWarp, whole, 2);
    inverse[half] = whole > 0 ? 1 / whole : 0;
    const int64_t row = query + 8 * half;
    if (threadIdx.x % 4 == 0 && row < length) {
      const int64_t heads = gridDim.y;
      log_sums[(sample * heads + head) * length + row] = maximum[half] + logf(whole);
    }
  }
  write_results<T, size>(head_of<T>(y, sample, head), y.position_stride, first, length, output,
                         inverse[0], inverse[1]);
}

}  // namespace llm_ops

using namespace llm_ops;

int llm_ops_flash_attention(int64_t batch, int64_t length, int64_t heads, int64_t key_heads,
                            int64_t size, llm_ops_dtype dtype, llm_ops_heads q, llm_ops_heads k,
                            llm_ops_heads v, llm_ops_mask mask, llm_ops_heads y, float *log_sums,
                            void *stream) {
  LLM_OPS_CHECK(check_attention(batch, length, heads, key_heads, size, dtype));
  if (batch * length * heads == 0) { return LLM_OPS_OK; }
  for (const llm_ops_heads &operand : {q, k, v, y}) { LLM_OPS_CHECK(check_heads(operand)); }
  LLM_OPS_CHECK(check(log_sums != nullptr, LLM_OPS_NULL_POINTER));
  const dim3 grid(ceil_div(length, kRows), heads, batch);
  return with_dtype_and_size(dtype, size, [&](auto zero, auto head_size) {
    using T = decltype(zero);
    constexpr int kSize = decltype(head_size)::value;
    const size_t shared = (kRows + 2 * kKeys) * row_stride(kSize) * sizeof(T);
    return launch(flash_attention<T, kSize>, grid, kThreads, shared, stream, length,
                  heads / key_heads, q, k, v, mask, 1 / sqrtf(size), y, log_sums);
  });
}
