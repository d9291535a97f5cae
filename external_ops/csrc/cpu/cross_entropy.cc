// A linear map to the vocabulary and its cross entropy, a block of logits at a time: first what the softmax
// needs of every row, then, from the logits computed again, the gradients.
#include <algorithm>
#include <vector>

#include "matmul.h"
#include "status.h"
#include "vector_math.h"

namespace llm {
namespace {

// Logits in memory at a time: few enough to stay in the last cache, and as many rows as columns where there are
// many of both, since sums over either are read and written for every block.
constexpr int64_t kLogits = int64_t{1} << 20, kRows = 1024;

LLM_INLINE float largest_of_body(int64_t count, const float *row) {
  float largest = -INFINITY;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < count; ++i) largest = row[i] > largest ? row[i] : largest;
  return largest;
}
constexpr Dispatched<largest_of_body> largest_of;

LLM_INLINE float sum_of_exponentials_body(int64_t count, const float *row, float shift) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += exponential(row[i] - shift);
  return sum;
}
constexpr Dispatched<sum_of_exponentials_body> sum_of_exponentials;

LLM_INLINE void scaled_softmax_body(int64_t count, float log_sum, float factor, float *row) {
  for (int64_t i = 0; i < count; ++i) row[i] = factor * exponential(row[i] - log_sum);
}
constexpr Dispatched<scaled_softmax_body> scaled_softmax;

// The head, walked through in chunks of the vocabulary, and each in blocks of rows.
struct Head {
  int64_t rows, width, vocabulary, most_rows;
  const void *x;
  llm_dtype dtype;
  const void *weight;
  llm_dtype weight_dtype;
  int64_t stride;  // elements from one row of the weight's memory to the next
  bool transposed;
  int64_t chunk;
  std::vector<float> logits;
  std::vector<uint16_t> rounded;

  Head(int64_t rows_, int64_t width_, int64_t vocabulary_, const void *x_, llm_dtype dtype_,
       const void *weight_, llm_dtype weight_dtype_, int64_t stride_, int transposed_)
      : rows(rows_), width(width_), vocabulary(vocabulary_), most_rows(std::min(rows_, kRows)), x(x_), dtype(dtype_),
        weight(weight_), weight_dtype(weight_dtype_), stride(stride_), transposed(transposed_ != 0) {
    require(rows > 0 && width > 0 && vocabulary > 0, "a head of no size");
    require(stride >= (transposed ? width : vocabulary), "rows of the weight overlap");
    require(weight_dtype == LLM_FLOAT32 || weight_dtype == dtype,
            "a weight that is neither float32 nor of the input's type");
    const int64_t room = std::max<int64_t>(kLogits / most_rows / 256 * 256, 256);
    chunk = std::min(room, vocabulary);
    logits.resize(most_rows * chunk);
    if (weight_dtype != dtype) rounded.resize(width * chunk);
  }

  int64_t offset(int64_t first) const { return transposed ? first * stride : first; }

  // The weight of tokens [first, first + count), [width, count] in the input's type.
  Operand columns(int64_t first, int64_t count) {
    const void *data = at(weight, offset(first), weight_dtype);
    if (weight_dtype == dtype) return {data, stride, transposed};
    const auto *source = static_cast<const float *>(data);
    const int64_t lines = transposed ? count : width, length = transposed ? width : count;
#pragma omp parallel for schedule(static)
    for (int64_t line = 0; line < lines; ++line) {
      narrow(length, source + line * stride, rounded.data() + line * length);
    }
    return {rounded.data(), length, transposed};
  }

  Operand rows_from(int64_t top) const { return {at(x, top * width, dtype), width, false}; }

  // Of rows [top, top + height).
  void compute_logits(const Operand &columns, int64_t count, int64_t top, int64_t height) {
    matmul(height, count, width, rows_from(top), columns, dtype, nullptr, logits.data(), count,
           LLM_FLOAT32, false);
  }

  // Calls body(first, count, columns, top, height) for every block.
  template <class Body>
  void for_each_block(Body body) {
    for (int64_t first = 0; first < vocabulary; first += chunk) {
      const int64_t count = std::min(chunk, vocabulary - first);
      const Operand of_chunk = columns(first, count);
      for (int64_t top = 0; top < rows; top += most_rows)
        body(first, count, of_chunk, top, std::min(most_rows, rows - top));
    }
  }
};

}  // namespace
}  // namespace llm

int llm_cpu_linear_log_sums(int64_t rows, int64_t width, int64_t vocabulary, const void *x,
                            llm_dtype dtype, const void *weight, llm_dtype weight_dtype,
                            int64_t weight_stride, int transposed, const int64_t *labels,
                            float *largest, float *sum, float *target) {
  using namespace llm;
  return guarded([&] {
    Head head(rows, width, vocabulary, x, dtype, weight, weight_dtype, weight_stride, transposed);
    std::fill_n(largest, rows, -INFINITY);
    std::fill_n(sum, rows, 0.0f);
    std::fill_n(target, rows, 0.0f);
    head.for_each_block([&](int64_t first, int64_t count, const Operand &columns, int64_t top,
                            int64_t height) {
      head.compute_logits(columns, count, top, height);
#pragma omp parallel for schedule(static)
      for (int64_t row = top; row < top + height; ++row) {
        const float *logits = head.logits.data() + (row - top) * count;
        const float bound = std::max(largest[row], largest_of(count, logits));
        sum[row] = sum[row] * exponential(largest[row] - bound) +
                   sum_of_exponentials(count, logits, bound);
        largest[row] = bound;
        const int64_t label = labels[row] - first;
        if (label >= 0 && label < count) target[row] = logits[label];
      }
    });
  });
}

int llm_cpu_linear_cross_entropy_backward(int64_t rows, int64_t width, int64_t vocabulary,
                                          const void *x, llm_dtype dtype, const void *weight,
                                          llm_dtype weight_dtype, int64_t weight_stride,
                                          int transposed, const int64_t *labels,
                                          const float *log_sums, const float *factors, float *dx,
                                          float *dweight, int accumulate) {
  using namespace llm;
  return guarded([&] {
    Head head(rows, width, vocabulary, x, dtype, weight, weight_dtype, weight_stride, transposed);
    std::vector<uint16_t> narrowed(dtype == LLM_BFLOAT16 ? head.logits.size() : 0);
    head.for_each_block([&](int64_t first, int64_t count, const Operand &columns, int64_t top,
                            int64_t height) {
      head.compute_logits(columns, count, top, height);
#pragma omp parallel for schedule(static)
      for (int64_t row = top; row < top + height; ++row) {
        float *logits = head.logits.data() + (row - top) * count;
        scaled_softmax(count, log_sums[row], factors[row], logits);
        const int64_t label = labels[row] - first;
        if (label >= 0 && label < count) logits[label] -= factors[row];
        if (dtype == LLM_BFLOAT16) narrow(count, logits, narrowed.data() + (row - top) * count);
      }
      const void *gradient = dtype == LLM_BFLOAT16 ? static_cast<const void *>(narrowed.data())
                                                   : head.logits.data();
      if (dx != nullptr) {
        const Operand back{columns.data, columns.stride, !columns.transposed};
        matmul(height, width, count, {gradient, count, false}, back, dtype, nullptr, dx + top * width,
               width, LLM_FLOAT32, first > 0);
      }
      if (dweight == nullptr) return;
      float *place = dweight + head.offset(first);
      const bool adds = accumulate != 0 || top > 0;
      Operand of_rows = head.rows_from(top);
      if (head.transposed) {
        matmul(count, width, height, {gradient, count, true}, of_rows, dtype, nullptr, place,
               weight_stride, LLM_FLOAT32, adds);
      } else {
        of_rows.transposed = true;
        matmul(width, count, height, of_rows, {gradient, count, false}, dtype, nullptr, place,
               weight_stride, LLM_FLOAT32, adds);
      }
    });
  });
}
