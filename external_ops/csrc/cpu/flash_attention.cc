// Attention in blocks of queries and keys (arXiv:2205.14135): nothing of size length × length.
#include <exception>

#include "attention_rows.h"
#include "matmul.h"
#include "status.h"

namespace llm {
namespace {

// The range of keys that some query of [first, first + count) sees.
Visible visible_to_any(const Attention &a, int64_t sample, int64_t first, int64_t count) {
  Visible all = a.visible(sample, first);
  for (int64_t query = first + 1; query < first + count; ++query) {
    const Visible keys = a.visible(sample, query);
    all.begin = std::min(all.begin, keys.begin);
    all.end = std::max(all.end, keys.end);
  }
  return all;
}

// A row's visible keys within a block, counted from the block's first.
Visible within(Visible keys, int64_t first, int64_t count) {
  const int64_t begin = std::clamp<int64_t>(keys.begin - first, 0, count);
  return {begin, std::clamp<int64_t>(keys.end - first, begin, count)};
}

struct ForwardScratch {
  std::vector<float> scores = std::vector<float>(kQueries * kKeys);
  std::vector<uint16_t> rounded = std::vector<uint16_t>(kQueries * kKeys);
  std::vector<float> output, largest = std::vector<float>(kQueries),
                             sum = std::vector<float>(kQueries);
};

// Rounds a block to the operands' type where that is needed, and returns what to multiply with.
const void *as_operand(const std::vector<float> &block, int64_t count, llm_dtype dtype,
                       std::vector<uint16_t> &rounded) {
  if (dtype == LLM_FLOAT32) return block.data();
  narrow(count, block.data(), rounded.data());
  return rounded.data();
}

void attend(const Attention &a, int64_t sample, int64_t head, int64_t first, const void *q,
            const void *k, const void *v, void *y, float *log_sums, ForwardScratch &scratch) {
  const int64_t rows = std::min(kQueries, a.length - first);
  const int64_t q_stride = a.heads * a.size, k_stride = a.key_heads * a.size;
  const int64_t q_start = a.query_offset(sample, head) + first * q_stride;
  const int64_t k_start = a.key_offset(sample, head / (a.heads / a.key_heads));
  const float slope = a.slope(head);
  float *output = scratch.output.data();
  std::fill(output, output + rows * a.size, 0.0f);
  std::fill_n(scratch.largest.begin(), rows, -INFINITY);
  std::fill_n(scratch.sum.begin(), rows, 0.0f);
  const Visible all = visible_to_any(a, sample, first, rows);
  for (int64_t start = all.begin; start < all.end; start += kKeys) {
    const int64_t keys = std::min(kKeys, all.end - start);
    const Operand queries{at(q, q_start, a.dtype), q_stride, false};
    const Operand block{at(k, k_start + start * k_stride, a.dtype), k_stride, true};
    matmul(rows, keys, a.size, queries, block, a.dtype, nullptr, scratch.scores.data(), keys,
           LLM_FLOAT32, false);
    for (int64_t row = 0; row < rows; ++row) {
      float *scores = scratch.scores.data() + row * keys;
      const int64_t query = first + row;
      const Visible seen = within(a.visible(sample, query), start, keys);
      float largest = scratch.largest[row];
      if (seen.begin < seen.end) {
        largest = std::max(largest, finish_scores(scores, seen.begin, seen.end, a.scale, slope,
                                                  static_cast<float>(start - query)));
      }
      const float added = exponentials(scores, keys, seen.begin, seen.end, largest);
      if (largest != scratch.largest[row]) {
        const float shrink = exponential(scratch.largest[row] - largest);
        scratch.sum[row] *= shrink;
        multiply_row(a.size, shrink, output + row * a.size);
        scratch.largest[row] = largest;
      }
      scratch.sum[row] += added;
    }
    const void *p = as_operand(scratch.scores, rows * keys, a.dtype, scratch.rounded);
    const Operand values{at(v, k_start + start * k_stride, a.dtype), k_stride, false};
    matmul(rows, a.size, keys, {p, keys, false}, values, a.dtype, nullptr, output, a.size,
           LLM_FLOAT32, true);
  }
  for (int64_t row = 0; row < rows; ++row) {
    float *out = output + row * a.size;
    multiply_row(a.size, 1.0f / scratch.sum[row], out);
    void *target = at(y, q_start + row * q_stride, a.dtype);
    if (a.dtype == LLM_FLOAT32) std::copy(out, out + a.size, static_cast<float *>(target));
    store(target, a.size, a.dtype, out);
    log_sums[(sample * a.heads + head) * a.length + first + row] =
        scratch.largest[row] + std::log(scratch.sum[row]);
  }
}

struct BackwardScratch {
  std::vector<float> p = std::vector<float>(kQueries * kKeys),
                     dp = std::vector<float>(kQueries * kKeys);
  std::vector<uint16_t> rounded_p = std::vector<uint16_t>(kQueries * kKeys),
                        rounded_ds = std::vector<uint16_t>(kQueries * kKeys);
  std::vector<float> dq, dk, dv, corrections, rows;
};

// rowsum(dy · y) of every query of a head.
void find_corrections(const Attention &a, int64_t start, const void *y, const void *dy,
                      BackwardScratch &scratch) {
  const int64_t stride = a.heads * a.size;
  for (int64_t query = 0; query < a.length; ++query) {
    const int64_t first = start + query * stride;
    const float *out = load(at(y, first, a.dtype), a.size, a.dtype, scratch.rows.data());
    const float *d_out =
        load(at(dy, first, a.dtype), a.size, a.dtype, scratch.rows.data() + a.size);
    scratch.corrections[query] = inner_product(a.size, out, d_out);
  }
}

void write_rows(const Attention &a, const std::vector<float> &rows, int64_t stride, void *target,
                int64_t start) {
  for (int64_t row = 0; row < a.length; ++row) {
    const float *values = rows.data() + row * a.size;
    void *place = at(target, start + row * stride, a.dtype);
    if (a.dtype == LLM_FLOAT32) std::copy(values, values + a.size, static_cast<float *>(place));
    store(place, a.size, a.dtype, values);
  }
}

// With P the probabilities: dV = Pᵀ dY; dS = P (dY Vᵀ - rowsum(dY · Y)); dQ = dS K; dK = dSᵀ Q.
void attend_backward(const Attention &a, int64_t sample, int64_t key_head, const void *q,
                     const void *k, const void *v, const void *y, const float *log_sums,
                     const void *dy, void *dq, void *dk, void *dv, BackwardScratch &scratch) {
  const int64_t q_stride = a.heads * a.size, k_stride = a.key_heads * a.size;
  const int64_t group = a.heads / a.key_heads, k_start = a.key_offset(sample, key_head);
  std::fill(scratch.dk.begin(), scratch.dk.end(), 0.0f);
  std::fill(scratch.dv.begin(), scratch.dv.end(), 0.0f);
  for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
    const int64_t q_start = a.query_offset(sample, head);
    const float *sums = log_sums + (sample * a.heads + head) * a.length;
    const float slope = a.slope(head);
    find_corrections(a, q_start, y, dy, scratch);
    std::fill(scratch.dq.begin(), scratch.dq.end(), 0.0f);
    for (int64_t first = 0; first < a.length; first += kQueries) {
      const int64_t rows = std::min(kQueries, a.length - first);
      const Visible all = visible_to_any(a, sample, first, rows);
      const void *q_block = at(q, q_start + first * q_stride, a.dtype);
      const void *dy_block = at(dy, q_start + first * q_stride, a.dtype);
      for (int64_t start = all.begin; start < all.end; start += kKeys) {
        const int64_t keys = std::min(kKeys, all.end - start);
        const void *k_block = at(k, k_start + start * k_stride, a.dtype);
        const void *v_block = at(v, k_start + start * k_stride, a.dtype);
        matmul(rows, keys, a.size, {q_block, q_stride, false}, {k_block, k_stride, true}, a.dtype,
               nullptr, scratch.p.data(), keys, LLM_FLOAT32, false);
        matmul(rows, keys, a.size, {dy_block, q_stride, false}, {v_block, k_stride, true}, a.dtype,
               nullptr, scratch.dp.data(), keys, LLM_FLOAT32, false);
        for (int64_t row = 0; row < rows; ++row) {
          const int64_t query = first + row;
          float *p = scratch.p.data() + row * keys;
          const Visible seen = within(a.visible(sample, query), start, keys);
          if (seen.begin < seen.end) {
            finish_scores(p, seen.begin, seen.end, a.scale, slope,
                          static_cast<float>(start - query));
          }
          exponentials(p, keys, seen.begin, seen.end, sums[query]);
          score_gradients(keys, p, scratch.corrections[query], a.scale,
                          scratch.dp.data() + row * keys);
        }
        const void *p = as_operand(scratch.p, rows * keys, a.dtype, scratch.rounded_p);
        const void *ds = as_operand(scratch.dp, rows * keys, a.dtype, scratch.rounded_ds);
        matmul(keys, a.size, rows, {p, keys, true}, {dy_block, q_stride, false}, a.dtype, nullptr,
               scratch.dv.data() + start * a.size, a.size, LLM_FLOAT32, true);
        matmul(keys, a.size, rows, {ds, keys, true}, {q_block, q_stride, false}, a.dtype, nullptr,
               scratch.dk.data() + start * a.size, a.size, LLM_FLOAT32, true);
        matmul(rows, a.size, keys, {ds, keys, false}, {k_block, k_stride, false}, a.dtype, nullptr,
               scratch.dq.data() + first * a.size, a.size, LLM_FLOAT32, true);
      }
    }
    write_rows(a, scratch.dq, q_stride, dq, q_start);
  }
  write_rows(a, scratch.dk, k_stride, dk, k_start);
  write_rows(a, scratch.dv, k_stride, dv, k_start);
}

Attention checked(int64_t batch, int64_t length, int64_t heads, int64_t key_heads, int64_t size,
                  llm_dtype dtype, const llm_mask *mask) {
  require(batch >= 0 && length >= 0, "a negative size");
  require(heads > 0 && key_heads > 0 && size > 0 && heads % key_heads == 0,
          "the key heads must divide the query heads");
  require(mask != nullptr, "no mask");
  return {batch, length, heads, key_heads, size, dtype, mask,
          1.0f / std::sqrt(static_cast<float>(size))};
}

// Runs body(task) for every task; the first exception of any thread is thrown when all are done.
template <class Scratch, class Body>
void in_parallel(int64_t tasks, const Scratch &prototype, Body body) {
  std::exception_ptr failure;
#pragma omp parallel
  {
    Scratch scratch = prototype;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < tasks; ++task) {
      try {
        body(task, scratch);
      } catch (...) {
#pragma omp critical
        failure = std::current_exception();
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace
}  // namespace llm

int llm_cpu_flash_attention(int64_t batch, int64_t length, int64_t heads, int64_t key_heads,
                            int64_t size, const void *q, const void *k, const void *v,
                            llm_dtype dtype, const llm_mask *mask, void *y, float *log_sums) {
  using namespace llm;
  return guarded([&] {
    const Attention a = checked(batch, length, heads, key_heads, size, dtype, mask);
    ForwardScratch scratch;
    scratch.output.resize(kQueries * size);
    const int64_t blocks = (length + kQueries - 1) / kQueries;
    in_parallel(batch * heads * blocks, scratch, [&](int64_t task, ForwardScratch &mine) {
      const int64_t block = task % blocks, head = task / blocks % heads;
      attend(a, task / blocks / heads, head, block * kQueries, q, k, v, y, log_sums, mine);
    });
  });
}

int llm_cpu_flash_attention_backward(int64_t batch, int64_t length, int64_t heads,
                                     int64_t key_heads, int64_t size, const void *q, const void *k,
                                     const void *v, llm_dtype dtype, const llm_mask *mask,
                                     const void *y, const float *log_sums, const void *dy, void *dq,
                                     void *dk, void *dv) {
  using namespace llm;
  return guarded([&] {
    const Attention a = checked(batch, length, heads, key_heads, size, dtype, mask);
    BackwardScratch scratch;
    scratch.rows.resize(2 * size);
    scratch.corrections.resize(length);
    for (auto *rows : {&scratch.dq, &scratch.dk, &scratch.dv}) rows->resize(length * size);
    in_parallel(batch * key_heads, scratch, [&](int64_t task, BackwardScratch &mine) {
      attend_backward(a, task / key_heads, task % key_heads, q, k, v, y, log_sums, dy, dq, dk, dv,
                      mine);
    });
  });
}
