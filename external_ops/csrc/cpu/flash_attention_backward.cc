// The gradients of attention, from scores that are computed again. They are held transposed, a row
// for each key, since two of the three products that take them then read them as they lie.
#include "attention_rows.h"
#include "matmul.h"
#include "status.h"
#include "tasks.h"
#include "tile_attention.h"

namespace llm {
namespace {

// What is known of each query of a head.
struct Queries {
  std::vector<float> corrections;  // rowsum(dy · y)
  std::vector<int32_t> begins, ends;

  explicit Queries(int64_t length)
      : corrections(length), begins(length), ends(length) {}
};

// For a key and queries first + i: p[i] = exp(p[i] · scale + slope · (key - query) - log_sum[i]) where
// it is seen, else 0; dp[i] = p[i] · (dp[i] - correction[i]) · scale.
LLM_INLINE void probabilities_and_gradients_body(int64_t rows, int32_t key, int32_t first,
                                                 float scale, float slope,
                                                 const float *__restrict log_sums,
                                                 const float *__restrict corrections,
                                                 const int32_t *__restrict begins,
                                                 const int32_t *__restrict ends,
                                                 float *__restrict p, float *__restrict dp) {
  for (int64_t i = 0; i < rows; ++i) {
    const bool is_seen = (begins[i] <= key) & (key < ends[i]);
    const auto distance = static_cast<float>(key - first - static_cast<int32_t>(i));
    const float probability = exponential(p[i] * scale + slope * distance - log_sums[i]);
    const float gradient = probability * (dp[i] - corrections[i]) * scale;
    p[i] = is_seen ? probability : 0.0f;
    dp[i] = is_seen ? gradient : 0.0f;
  }
}
constexpr Dispatched<probabilities_and_gradients_body> probabilities_and_gradients;

// Rows or columns that are transposed together.
constexpr int64_t kTurned = 16;

template <class T>
LLM_INLINE void transpose_body(int64_t rows, int64_t columns, const T *__restrict source,
                               int64_t source_stride, T *__restrict target, int64_t stride) {
  for (int64_t first = 0; first < rows; first += kTurned) {
    const int64_t end = std::min(rows, first + kTurned);
    for (int64_t column = 0; column < columns; ++column)
      for (int64_t row = first; row < end; ++row)
        target[column * stride + row] = source[row * source_stride + column];
  }
}
constexpr Dispatched<transpose_body<float>> transpose_float;
constexpr Dispatched<transpose_body<uint16_t>> transpose_half;

struct Scratch {
  std::vector<float> p = std::vector<float>(kQueries * kKeys),
                     dp = std::vector<float>(kQueries * kKeys);
  std::vector<uint16_t> rounded_p = std::vector<uint16_t>(kQueries * kKeys),
                        rounded_dp = std::vector<uint16_t>(kQueries * kKeys);
  Queries queries;
  std::vector<float> dq_turned, dk, dv, rows;
  std::vector<float> k_turned;  // or values of half the size

  explicit Scratch(const Attention &a)
      : queries(a.length), dq_turned(a.turned_stride() * a.size), dk(a.length * a.size),
        dv(a.length * a.size), rows(kTurned * a.size), k_turned(a.turned_stride() * a.size) {}
};

void find_queries(const Attention &a, int64_t sample, int64_t head, const void *y, const void *dy,
                  Scratch &scratch) {
  const int64_t stride = a.heads * a.size;
  Queries &queries = scratch.queries;
  for (int64_t query = 0; query < a.length; ++query) {
    const int64_t first = a.query_offset(sample, head) + query * stride;
    const float *out = load(at(y, first, a.dtype), a.size, a.dtype, scratch.rows.data());
    const float *d_out =
        load(at(dy, first, a.dtype), a.size, a.dtype, scratch.rows.data() + a.size);
    queries.corrections[query] = inner_product(a.size, out, d_out);
    const Visible seen = a.visible(sample, query);
    queries.begins[query] = static_cast<int32_t>(seen.begin);
    queries.ends[query] = static_cast<int32_t>(seen.end);
  }
}

void write_row(const float *values, const Attention &a, void *target, int64_t first) {
  void *place = at(target, first, a.dtype);
  if (a.dtype == LLM_FLOAT32) std::copy(values, values + a.size, static_cast<float *>(place));
  store(place, a.size, a.dtype, values);
}

// With P the probabilities: dV = Pᵀ dY; dS = P (dY Vᵀ - rowsum(dY · Y)); dQ = dS K; dK = dSᵀ Q.
void attend_backward(const Attention &a, int64_t sample, int64_t key_head, const void *q,
                     const void *k, const void *v, const void *y, const float *log_sums,
                     const void *dy, void *dq, void *dk, void *dv, Scratch &scratch) {
  const int64_t q_stride = a.heads * a.size, k_stride = a.key_heads * a.size;
  const int64_t group = a.heads / a.key_heads, k_start = a.key_offset(sample, key_head);
  const int64_t turned_stride = a.turned_stride();
  const bool is_rounded = a.dtype == LLM_BFLOAT16;
  const auto operand = [&](std::vector<float> &block, std::vector<uint16_t> &rounded) {
    return is_rounded ? static_cast<const void *>(rounded.data()) : block.data();
  };
  const void *p = operand(scratch.p, scratch.rounded_p);
  const void *ds = operand(scratch.dp, scratch.rounded_dp);
  const void *keys_in = at(k, k_start, a.dtype);
  if (is_rounded) {
    transpose_half(a.length, a.size, static_cast<const uint16_t *>(keys_in), k_stride,
                   reinterpret_cast<uint16_t *>(scratch.k_turned.data()), turned_stride);
  } else {
    transpose_float(a.length, a.size, static_cast<const float *>(keys_in), k_stride,
                    scratch.k_turned.data(), turned_stride);
  }
  std::fill(scratch.dk.begin(), scratch.dk.end(), 0.0f);
  std::fill(scratch.dv.begin(), scratch.dv.end(), 0.0f);
  for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
    const int64_t q_start = a.query_offset(sample, head);
    const float slope = a.slope(head);
    const Queries &queries = scratch.queries;
    const float *sums = log_sums + (sample * a.heads + head) * a.length;
    find_queries(a, sample, head, y, dy, scratch);
    std::fill(scratch.dq_turned.begin(), scratch.dq_turned.end(), 0.0f);
    for (int64_t first = 0; first < a.length; first += kQueries) {
      const int64_t rows = std::min(kQueries, a.length - first);
      const Visible all = a.visible_to_any(sample, first, rows);
      const Operand q_block{at(q, q_start + first * q_stride, a.dtype), q_stride, false};
      const Operand dy_block{at(dy, q_start + first * q_stride, a.dtype), q_stride, false};
      for (int64_t start = all.begin; start < all.end; start += kKeys) {
        const int64_t keys = std::min(kKeys, all.end - start);
        const Operand k_block{at(k, k_start + start * k_stride, a.dtype), k_stride, false};
        const Operand v_block{at(v, k_start + start * k_stride, a.dtype), k_stride, false};
        matmul(keys, rows, a.size, k_block, {q_block.data, q_stride, true}, a.dtype, nullptr,
               scratch.p.data(), rows, LLM_FLOAT32, false);
        matmul(keys, rows, a.size, v_block, {dy_block.data, q_stride, true}, a.dtype, nullptr,
               scratch.dp.data(), rows, LLM_FLOAT32, false);
        for (int64_t row = 0; row < keys; ++row) {
          float *p_row = scratch.p.data() + row * rows, *dp_row = scratch.dp.data() + row * rows;
          probabilities_and_gradients(
              rows, static_cast<int32_t>(start + row), static_cast<int32_t>(first), a.scale, slope,
              sums + first, queries.corrections.data() + first, queries.begins.data() + first,
              queries.ends.data() + first, p_row, dp_row);
          if (is_rounded) {
            narrow(rows, p_row, scratch.rounded_p.data() + row * rows);
            narrow(rows, dp_row, scratch.rounded_dp.data() + row * rows);
          }
        }
        matmul(keys, a.size, rows, {p, rows, false}, dy_block, a.dtype, nullptr,
               scratch.dv.data() + start * a.size, a.size, LLM_FLOAT32, true);
        matmul(keys, a.size, rows, {ds, rows, false}, q_block, a.dtype, nullptr,
               scratch.dk.data() + start * a.size, a.size, LLM_FLOAT32, true);
        const Operand turned{at(scratch.k_turned.data(), start, a.dtype), turned_stride, false};
        matmul(a.size, rows, keys, turned, {ds, rows, false}, a.dtype, nullptr,
               scratch.dq_turned.data() + first, turned_stride, LLM_FLOAT32, true);
      }
    }
    for (int64_t first = 0; first < a.length; first += kTurned) {
      const int64_t rows = std::min(kTurned, a.length - first);
      transpose_float(a.size, rows, scratch.dq_turned.data() + first, turned_stride,
                      scratch.rows.data(), a.size);
      for (int64_t row = 0; row < rows; ++row) {
        write_row(scratch.rows.data() + row * a.size, a, dq, q_start + (first + row) * q_stride);
      }
    }
  }
  for (int64_t key = 0; key < a.length; ++key) {
    write_row(scratch.dk.data() + key * a.size, a, dk, k_start + key * k_stride);
    write_row(scratch.dv.data() + key * a.size, a, dv, k_start + key * k_stride);
  }
}

}  // namespace
}  // namespace llm

int llm_cpu_flash_attention_backward(int64_t batch, int64_t length, int64_t heads,
                                     int64_t key_heads, int64_t size, const void *q, const void *k,
                                     const void *v, llm_dtype dtype, const llm_mask *mask,
                                     const void *y, const float *log_sums, const void *dy, void *dq,
                                     void *dk, void *dv) {
  using namespace llm;
  return guarded([&] {
    const Attention a(batch, length, heads, key_heads, size, dtype, mask);
    if (attends_on_tiles(a) &&
        attend_backward_on_tiles(a, q, k, v, y, log_sums, dy, dq, dk, dv))
      return;
    in_parallel(batch * key_heads, Scratch(a), [&](int64_t task, Scratch &mine) {
      attend_backward(a, task / key_heads, task % key_heads, q, k, v, y, log_sums, dy, dq, dk, dv,
                      mine);
    });
  });
}
