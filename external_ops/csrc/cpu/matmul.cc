#include "matmul.h"

#include <omp.h>

#include <oneapi/dnnl/dnnl.h>
#include <stdexcept>
#include <vector>

#include "product.h"
#include "status.h"
#include "tile_product.h"
#include "vector_math.h"

namespace llm {
namespace {

// Whether oneDNN's BLAS, which copies parts of both operands into the order in which it reads them, is
// faster than its products, which read a weight as it lies: by a tenth, as measured, but for narrow
// results with a weight that is read transposed.
bool blas_is_faster(int64_t n, const Operand &a, const Operand &b) {
  return !b.transposed || a.transposed || n >= 1024;
}

void multiply_float(int64_t m, int64_t n, int64_t k, const Operand &a, const Operand &b,
                    const float *bias, float *c, int64_t c_stride, bool accumulate) {
  for (int64_t row = 0; bias != nullptr && row < m; ++row) {
    float *values = c + row * c_stride;
    for (int64_t i = 0; i < n; ++i) values[i] = accumulate ? values[i] + bias[i] : bias[i];
  }
  const float kept = accumulate || bias != nullptr ? 1.0f : 0.0f;
  const auto status =
      dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', m, n, k, 1.0f,
                 static_cast<const float *>(a.data), a.stride, static_cast<const float *>(b.data),
                 b.stride, kept, c, c_stride);
  if (status != dnnl_success) throw std::runtime_error("oneDNN refused a product");
}

std::vector<float> widened(const void *data, int64_t lines, int64_t length, int64_t stride) {
  std::vector<float> wide(lines * length);
  const auto *source = static_cast<const uint16_t *>(data);
  for (int64_t line = 0; line < lines; ++line)
    widen(length, source + line * stride, wide.data() + line * length);
  return wide;
}

// A product of bfloat16 by one of float32.
void multiply_widened(int64_t m, int64_t n, int64_t k, const Operand &a, const Operand &b,
                      const float *bias, void *c, int64_t c_stride, llm_dtype c_dtype,
                      bool accumulate) {
  const int64_t a_length = a.transposed ? m : k, b_length = b.transposed ? k : n;
  const auto left = widened(a.data, a.transposed ? k : m, a_length, a.stride);
  const auto right = widened(b.data, b.transposed ? n : k, b_length, b.stride);
  const Operand wide_a{left.data(), a_length, a.transposed};
  const Operand wide_b{right.data(), b_length, b.transposed};
  if (c_dtype == LLM_FLOAT32) {
    multiply(m, n, k, wide_a, wide_b, LLM_FLOAT32, bias, c, c_stride, LLM_FLOAT32, accumulate);
    return;
  }
  auto wide_c = accumulate ? widened(c, m, n, c_stride) : std::vector<float>(m * n);
  multiply(m, n, k, wide_a, wide_b, LLM_FLOAT32, bias, wide_c.data(), n, LLM_FLOAT32, accumulate);
  for (int64_t row = 0; row < m; ++row)
    narrow(n, wide_c.data() + row * n, static_cast<uint16_t *>(c) + row * c_stride);
}

}  // namespace

void matmul(int64_t m, int64_t n, int64_t k, Operand a, Operand b, llm_dtype dtype,
            const float *bias, void *c, int64_t c_stride, llm_dtype c_dtype, bool accumulate) {
  if (!omp_in_parallel() && tiles_are_faster(m, n, k)) {
    multiply_on_tiles(m, n, k, a, b, dtype, bias, c, c_stride, c_dtype, accumulate);
  } else if (dtype == LLM_FLOAT32 && !omp_in_parallel() && blas_is_faster(n, a, b)) {
    multiply_float(m, n, k, a, b, bias, static_cast<float *>(c), c_stride, accumulate);
  } else if (dtype == LLM_BFLOAT16 && !multiplies_bfloat16()) {
    multiply_widened(m, n, k, a, b, bias, c, c_stride, c_dtype, accumulate);
  } else {
    multiply(m, n, k, a, b, dtype, bias, c, c_stride, c_dtype, accumulate);
  }
}

}  // namespace llm

int llm_cpu_packed_bytes(int64_t m, int64_t n, int64_t k, int64_t *bytes) {
  return llm::guarded([&] {
    llm::require(m > 0 && n > 0 && k > 0, "a product of no size");
    if (llm::tiles_are_faster(m, n, k)) {
      *bytes = llm::bytes_for_tiles(n, k);
    } else {
      *bytes = llm::multiplies_bfloat16() ? llm::packed_bytes(m, n, k) : 0;
    }
  });
}

int llm_cpu_pack(int64_t m, int64_t n, int64_t k, const void *b, llm_dtype b_dtype,
                 int b_transposed, void *packed) {
  using namespace llm;
  return guarded([&] {
    require(m > 0 && n > 0 && k > 0, "a product of no size");
    require(multiplies_bfloat16(), "this processor has no products of packed weights");
    const Operand source{b, b_transposed ? k : n, b_transposed != 0};
    if (tiles_are_faster(m, n, k)) {
      pack_for_tiles(n, k, source, b_dtype, packed);
    } else {
      pack(m, n, k, source, b_dtype, packed);
    }
  });
}

int llm_cpu_matmul(int64_t m, int64_t n, int64_t k, const void *a, int a_transposed, const void *b,
                   llm_layout b_layout, llm_dtype dtype, const float *bias, void *c,
                   llm_dtype c_dtype, int accumulate) {
  using namespace llm;
  return guarded([&] {
    require(m >= 0 && n >= 0 && k > 0, "a product of sizes below zero, or over nothing");
    require(b_layout >= LLM_PLAIN && b_layout <= LLM_PACKED, "an unknown layout");
    require(c_dtype == LLM_FLOAT32 || c_dtype == dtype,
            "a result that is neither float32 nor of the operands' type");
    require(b_layout != LLM_PACKED || (dtype == LLM_BFLOAT16 && multiplies_bfloat16()),
            "packed weights are for products of bfloat16, on processors that have them");
    if (m == 0 || n == 0) return;
    const Operand left{a, a_transposed ? m : k, a_transposed != 0};
    const Operand right{b, b_layout == LLM_TRANSPOSED ? k : n, b_layout == LLM_TRANSPOSED,
                        b_layout == LLM_PACKED};
    matmul(m, n, k, left, right, dtype, bias, c, n, c_dtype, accumulate != 0);
  });
}
