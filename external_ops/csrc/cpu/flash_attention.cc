// Attention in blocks of queries and keys (arXiv:2205.14135): nothing of size length × length.
#include "attention_rows.h"
#include "matmul.h"
#include "status.h"
#include "tasks.h"
#include "tile_attention.h"

namespace llm {
namespace {

// A row's visible keys within a block, counted from the block's first.
Visible within(Visible keys, int64_t first, int64_t count) {
  const int64_t begin = std::clamp<int64_t>(keys.begin - first, 0, count);
  return {begin, std::clamp<int64_t>(keys.end - first, begin, count)};
}

struct Scratch {
  std::vector<float> scores = std::vector<float>(kQueries * kKeys);
  std::vector<uint16_t> rounded = std::vector<uint16_t>(kQueries * kKeys);
  std::vector<float> output, largest = std::vector<float>(kQueries),
                             sum = std::vector<float>(kQueries);
};

void attend(const Attention &a, int64_t sample, int64_t head, int64_t first, const void *q,
            const void *k, const void *v, void *y, float *log_sums, Scratch &scratch) {
  const int64_t rows = std::min(kQueries, a.length - first);
  const int64_t q_stride = a.heads * a.size, k_stride = a.key_heads * a.size;
  const int64_t q_start = a.query_offset(sample, head) + first * q_stride;
  const int64_t k_start = a.key_offset(sample, head / (a.heads / a.key_heads));
  const bool is_rounded = a.dtype == LLM_BFLOAT16;
  const float slope = a.slope(head);
  float *output = scratch.output.data();
  std::fill(output, output + rows * a.size, 0.0f);
  std::fill_n(scratch.largest.begin(), rows, -INFINITY);
  std::fill_n(scratch.sum.begin(), rows, 0.0f);
  const Visible all = a.visible_to_any(sample, first, rows);
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
      const Scores of_row{a.scale, slope, static_cast<float>(start - query)};
      const float largest =
          std::max(scratch.largest[row], largest_score(scores, seen.begin, seen.end, of_row));
      const float added = exponentials(scores, keys, seen.begin, seen.end, of_row, largest);
      if (is_rounded) narrow(keys, scores, scratch.rounded.data() + row * keys);
      if (largest != scratch.largest[row]) {
        const float shrink = exponential(scratch.largest[row] - largest);
        scratch.sum[row] *= shrink;
        multiply_row(a.size, shrink, output + row * a.size);
        scratch.largest[row] = largest;
      }
      scratch.sum[row] += added;
    }
    const void *p = is_rounded ? static_cast<void *>(scratch.rounded.data()) : scratch.scores.data();
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

}  // namespace
}  // namespace llm

int llm_cpu_flash_attention(int64_t batch, int64_t length, int64_t heads, int64_t key_heads,
                            int64_t size, const void *q, const void *k, const void *v,
                            llm_dtype dtype, const llm_mask *mask, void *y, float *log_sums) {
  using namespace llm;
  return guarded([&] {
    const Attention a(batch, length, heads, key_heads, size, dtype, mask);
    if (attends_on_tiles(a) && attend_on_tiles(a, q, k, v, y, log_sums)) return;
    Scratch scratch;
    scratch.output.resize(kQueries * size);
    const int64_t blocks = (length + kQueries - 1) / kQueries;
    in_parallel(batch * heads * blocks, scratch, [&](int64_t task, Scratch &mine) {
      // The last blocks see most keys; they come first, so that no thread ends with one.
      const int64_t block = blocks - 1 - task / (batch * heads), head = task % heads;
      attend(a, task / heads % batch, head, block * kQueries, q, k, v, y, log_sums, mine);
    });
  });
}
