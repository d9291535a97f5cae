// Flash attention, backward. The probabilities are computed again from the log-sums, twice: a block
// that has 64 keys goes through the queries, and one that has 64 queries goes through the keys. So
// no sum is shared between blocks, and its order is fixed.
#include "attention_check.cuh"
#include "attention_mask.cuh"
#include "attention_tile.cuh"

namespace llm_ops {

constexpr int kOthers = 32;  // queries or keys of a step

// What a block's kernel needs of the rows of a head of queries.
struct RowStatistics {
  const float *log_sums, *corrections;  // [length]

  // The probability of a score and its gradient, from that of the probability.
  __device__ void apply(const Rules &rules, bool all_seen, int64_t query, int64_t key, float scale,
                        float &score, float &gradient) const {
    if (!all_seen && !rules.sees(query, key)) {
      score = gradient = 0;
      return;
    }
    score = expf(score * scale + rules.bias(query, key) - log_sums[query]);
    gradient = score * (gradient - corrections[query]);
  }
};

// corrections [batch, heads, length]: the sum of dy · y over a row, of which a warp has one.
template <class T>
__global__ void row_corrections(int64_t rows, int64_t length, int64_t heads, int64_t size,
                                llm_ops_heads y, llm_ops_heads dy, float *corrections) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= rows) { return; }
  const int64_t position = row % length, head = row / length % heads, sample = row / length / heads;
  const T *output = head_of<T>(y, sample, head) + position * y.position_stride;
  const T *gradient = head_of<T>(dy, sample, head) + position * dy.position_stride;
  float sum = 0;
  for (int64_t i = threadIdx.x % kWarp; i < size; i += kWarp) {
    sum += to_float(output[i]) * to_float(gradient[i]);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) { corrections[row] = sum; }
}

// A block has 64 keys of a key head: rows are keys, columns are queries of all heads of the group.
template <class T, int size>
__global__ void __launch_bounds__(kThreads)
    flash_attention_dkdv(int64_t length, int64_t group, llm_ops_heads q, llm_ops_heads k,
                         llm_ops_heads v, llm_ops_mask mask, float scale, llm_ops_heads dy,
                         const float *log_sums, const float *corrections, llm_ops_heads dk,
                         llm_ops_heads dv) {
  extern __shared__ int4 shared[];
  T *keys = reinterpret_cast<T *>(shared);
  T *values = keys + kRows * row_stride(size);
  T *queries = values + kRows * row_stride(size);
  T *gradients = queries + kOthers * row_stride(size);
  const int64_t key_head = blockIdx.y, sample = blockIdx.z, heads = gridDim.y * group;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRows;
  const int own = threadIdx.x / kWarp * kRowsOfWarp;

  float of_keys[size / kColumns][4] = {}, of_values[size / kColumns][4] = {};
  load_tile<T, size>(keys, kRows, head_of<T>(k, sample, key_head), k.position_stride, first,
                     length);
  load_tile<T, size>(values, kRows, head_of<T>(v, sample, key_head), v.position_stride, first,
                     length);
  for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
    const Rules rules(mask, length, sample, head);
    const int64_t rows = (sample * heads + head) * length;
    const RowStatistics statistics{log_sums + rows, corrections + rows};
    const int64_t begin = rules.first_query(first) / kOthers * kOthers;
    for (int64_t query0 = begin; query0 < length; query0 += kOthers) {
      if (rules.is_past(query0, first + kRows)) { break; }
      __syncthreads();  // the previous tiles have been read
      load_tile<T, size>(queries, kOthers, head_of<T>(q, sample, head), q.position_stride, query0,
                         length);
      load_tile<T, size>(gradients, kOthers, head_of<T>(dy, sample, head), dy.position_stride,
                         query0, length);
      __syncthreads();

      float scores[kOthers / kColumns][4] = {}, slopes[kOthers / kColumns][4] = {};
#pragma unroll
      for (int depth = 0; depth < size; depth += kDepth) {
        unsigned key[4], value[4], b[2][2];
        read_left<T, size>(key, keys, own, depth);
        read_left<T, size>(value, values, own, depth);
#pragma unroll
        for (int n = 0; n < kOthers / kColumns; n += 2) {
          read_right_transposed<T, size>(b, queries, n * kColumns, depth);
          multiply_add_two<T>(scores[n], scores[n + 1], key, b);
          read_right_transposed<T, size>(b, gradients, n * kColumns, depth);
          multiply_add_two<T>(slopes[n], slopes[n + 1], value, b);
        }
      }
      const bool all_seen = rules.sees_all(query0, query0 + kOthers, first, first + kRows);
#pragma unroll
      for (int n = 0; n < kOthers / kColumns; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int64_t key = first + own + fragment_row() + i / 2 * 8;
          const int64_t query = query0 + n * kColumns + fragment_column() + i % 2;
          statistics.apply(rules, all_seen, query, key, scale, scores[n][i], slopes[n][i]);
        }
      }
#pragma unroll
      for (int depth = 0; depth < kOthers; depth += kDepth) {
        unsigned probability[4], slope[4], b[2][2];
        const int tile = depth / kColumns;
        left_of_results<T>(probability, scores[tile], scores[tile + 1]);
        left_of_results<T>(slope, slopes[tile], slopes[tile + 1]);
#pragma unroll
        for (int n = 0; n < size / kColumns; n += 2) {
          read_right<T, size>(b, gradients, depth, n * kColumns);
          multiply_add_two<T>(of_values[n], of_values[n + 1], probability, b);
          read_right<T, size>(b, queries, depth, n * kColumns);
          multiply_add_two<T>(of_keys[n], of_keys[n + 1], slope, b);
        }
      }
    }
  }
  write_results<T, size>(head_of<T>(dk, sample, key_head), dk.position_stride, first, length,
                         of_keys, scale, scale);
  write_results<T, size>(head_of<T>(dv, sample, key_head), dv.position_stride, first, length,
                         of_values, 1, 1);
}

// A block has 64 queries of a head: rows are queries, columns are keys.
template <class T, int size>
__global__ void __launch_bounds__(kThreads)
    flash_attention_dq(int64_t length, int64_t group, llm_ops_heads q, llm_ops_heads k,
                       llm_ops_heads v, llm_ops_mask mask, float scale, llm_ops_heads dy,
                       const float *log_sums, const float *corrections, llm_ops_heads dq) {
  extern __shared__ int4 shared[];
  T *queries = reinterpret_cast<T *>(shared);
  T *gradients = queries + kRows * row_stride(size);
  T *keys = gradients + kRows * row_stride(size);
  T *values = keys + kOthers * row_stride(size);
  const int64_t head = blockIdx.y, sample = blockIdx.z, heads = gridDim.y;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRows;
  const int own = threadIdx.x / kWarp * kRowsOfWarp;
  const Rules rules(mask, length, sample, head);
  const int64_t rows = (sample * heads + head) * length;
  const RowStatistics statistics{log_sums + rows, corrections + rows};
  const T *key_head = head_of<T>(k, sample, head / group);
  const T *value_head = head_of<T>(v, sample, head / group);

  float of_queries[size / kColumns][4] = {};
  load_tile<T, size>(queries, kRows, head_of<T>(q, sample, head), q.position_stride, first, length);
  load_tile<T, size>(gradients, kRows, head_of<T>(dy, sample, head), dy.position_stride, first,
                     length);
  const int64_t end_key = rules.end_key(first + kRows);
  for (int64_t key0 = rules.first_key(first) / kOthers * kOthers; key0 < end_key;
       key0 += kOthers) {
    __syncthreads();  // the previous tiles have been read
    load_tile<T, size>(keys, kOthers, key_head, k.position_stride, key0, length);
    load_tile<T, size>(values, kOthers, value_head, v.position_stride, key0, length);
    __syncthreads();

    float scores[kOthers / kColumns][4] = {}, slopes[kOthers / kColumns][4] = {};
#pragma unroll
    for (int depth = 0; depth < size; depth += kDepth) {
      unsigned query[4], gradient[4], b[2][2];
      read_left<T, size>(query, queries, own, depth);
      read_left<T, size>(gradient, gradients, own, depth);
#pragma unroll
      for (int n = 0; n < kOthers / kColumns; n += 2) {
        read_right_transposed<T, size>(b, keys, n * kColumns, depth);
        multiply_add_two<T>(scores[n], scores[n + 1], query, b);
        read_right_transposed<T, size>(b, values, n * kColumns, depth);
        multiply_add_two<T>(slopes[n], slopes[n + 1], gradient, b);
      }
    }
    const bool all_seen = rules.sees_all(first, first + kRows, key0, key0 + kOthers);
#pragma unroll
    for (int n = 0; n < kOthers / kColumns; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t query = first + own + fragment_row() + i / 2 * 8;
        const int64_t key = key0 + n * kColumns + fragment_column() + i % 2;
        statistics.apply(rules, all_seen, query, key, scale, scores[n][i], slopes[n][i]);
      }
    }
#pragma unroll
    for (int depth = 0; depth < kOthers; depth += kDepth) {
      unsigned slope[4], b[2][2];
      left_of_results<T>(slope, slopes[depth / kColumns], slopes[depth / kColumns + 1]);
#pragma unroll
      for (int n = 0; n < size / kColumns; n += 2) {
        read_right<T, size>(b, keys, depth, n * kColumns);
        multiply_add_two<T>(of_queries[n], of_queries[n + 1], slope, b);
      }
    }
  }
  write_results<T, size>(head_of<T>(dq, sample, head), dq.position_stride, first, length,
                         of_queries, scale, scale);
}

}  // namespace llm_ops

using namespace llm_ops;

int llm_ops_flash_attention_backward(int64_t batch, int64_t length, int64_t heads,
                                     int64_t key_heads, int64_t size, llm_ops_dtype dtype,
                                     llm_ops_heads q, llm_ops_heads k, llm_ops_heads v,
                                     llm_ops_mask mask, llm_ops_heads y, const float *log_sums,
                                     llm_ops_heads dy, float *corrections, llm_ops_heads dq,
                                     llm_ops_heads dk, llm_ops_heads dv, void *stream) {
  LLM_OPS_CHECK(check_attention(batch, length, heads, key_heads, size, dtype));
  if (batch * length * heads == 0) { return LLM_OPS_OK; }
  for (const llm_ops_heads &operand : {q, k, v, y, dy, dq, dk, dv}) {
    LLM_OPS_CHECK(check_heads(operand));
  }
  LLM_OPS_CHECK(check(log_sums && corrections, LLM_OPS_NULL_POINTER));
  const int64_t rows = batch * heads * length, group = heads / key_heads;
  const int64_t blocks = ceil_div(length, kRows);
  return with_dtype_and_size(dtype, size, [&](auto zero, auto head_size) {
    using T = decltype(zero);
    constexpr int kSize = decltype(head_size)::value;
    const size_t shared = 2 * (kRows + kOthers) * row_stride(kSize) * sizeof(T);
    const float scale = 1 / sqrtf(size);
    LLM_OPS_CHECK(launch(row_corrections<T>, dim3(ceil_div(rows, kWarps)), kThreads, 0, stream,
                         rows, length, heads, size, y, dy, corrections));
    LLM_OPS_CHECK(launch(flash_attention_dkdv<T, kSize>, dim3(blocks, key_heads, batch), kThreads,
                         shared, stream, length, group, q, k, v, mask, scale, dy, log_sums,
                         corrections, dk, dv));
    return launch(flash_attention_dq<T, kSize>, dim3(blocks, heads, batch), kThreads, shared,
                  stream, length, group, q, k, v, mask, scale, dy, log_sums, corrections, dq);
  });
}
