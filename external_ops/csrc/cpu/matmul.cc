#include "matmul.h"

#include <omp.h>

#include <array>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <stdexcept>
#include <unordered_map>
#include <vector>

#include "status.h"
#include "vector_math.h"

namespace llm {
namespace {

using dnnl::memory;

memory::data_type type_of(llm_dtype dtype) {
  return dtype == LLM_BFLOAT16 ? memory::data_type::bf16 : memory::data_type::f32;
}

// A compiled product and what it is called with, of which only the data differ between calls.
struct Product {
  dnnl::matmul primitive;
  size_t scratch_bytes = 0;
  std::unordered_map<int, memory> arguments;
};

// All that a compiled product depends on, the number of its threads included.
using Key = std::array<int64_t, 13>;

const dnnl::engine &engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

memory::desc describe(int64_t rows, int64_t columns, llm_dtype dtype, int64_t stride,
                      bool transposed) {
  // One row without gaps lies in memory as its transpose does, but oneDNN 3.6 leaves a product with
  // one unwritten where it is described as a transpose.
  const bool is_plain = !transposed || (rows == 1 && stride == 1);
  const int64_t apart = transposed ? columns : stride;
  const memory::dims strides = is_plain ? memory::dims{apart, 1} : memory::dims{1, stride};
  return {{rows, columns}, type_of(dtype), strides};
}

Product compile(int64_t m, int64_t n, int64_t k, const Operand &a, const Operand &b,
                llm_dtype dtype, bool has_bias, int64_t c_stride, llm_dtype c_dtype,
                bool accumulate) {
  const memory::desc left = describe(m, k, dtype, a.stride, a.transposed);
  const memory::desc right = describe(k, n, dtype, b.stride, b.transposed);
  const memory::desc result = describe(m, n, c_dtype, c_stride, false);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  Product product;
  const auto add = [&](int name, const memory::desc &desc) {
    product.arguments.emplace(name, memory(desc, engine(), DNNL_MEMORY_NONE));
  };
  dnnl::matmul::primitive_desc descriptor;
  if (has_bias) {
    const memory::desc row({1, n}, memory::data_type::f32, memory::dims{n, 1});
    descriptor = dnnl::matmul::primitive_desc(engine(), left, right, row, result, attributes);
    add(DNNL_ARG_BIAS, row);
  } else {
    descriptor = dnnl::matmul::primitive_desc(engine(), left, right, result, attributes);
  }
  add(DNNL_ARG_SRC, left);
  add(DNNL_ARG_WEIGHTS, right);
  add(DNNL_ARG_DST, result);
  add(DNNL_ARG_SCRATCHPAD, descriptor.scratchpad_desc());
  product.scratch_bytes = descriptor.scratchpad_desc().get_size();
  product.primitive = dnnl::matmul(descriptor);
  return product;
}

// A thread's products stay for its life, since a model has few shapes; where it has many after all,
// the lot is dropped now and then.
constexpr size_t kMostProducts = 4096;

void multiply(int64_t m, int64_t n, int64_t k, const Operand &a, const Operand &b, llm_dtype dtype,
              const float *bias, void *c, int64_t c_stride, llm_dtype c_dtype, bool accumulate) {
  thread_local std::map<Key, Product> products;
  thread_local dnnl::stream stream(engine());
  thread_local std::vector<uint8_t> scratch;
  const Key key{m, n, k, a.stride, a.transposed, b.stride, b.transposed,
                dtype, bias != nullptr, c_stride, c_dtype, accumulate,
                omp_in_parallel() ? 1 : omp_get_max_threads()};
  auto found = products.find(key);
  if (found == products.end()) {
    if (products.size() >= kMostProducts) products.clear();
    found = products.emplace(key, compile(m, n, k, a, b, dtype, bias != nullptr, c_stride, c_dtype,
                                          accumulate)).first;
  }
  Product &product = found->second;
  if (scratch.size() < product.scratch_bytes) scratch.resize(product.scratch_bytes);
  const auto place = [&](int name, const void *data) {
    product.arguments.at(name).set_data_handle(const_cast<void *>(data));
  };
  place(DNNL_ARG_SRC, a.data);
  place(DNNL_ARG_WEIGHTS, b.data);
  place(DNNL_ARG_DST, c);
  place(DNNL_ARG_SCRATCHPAD, scratch.data());
  if (bias != nullptr) place(DNNL_ARG_BIAS, bias);
  product.primitive.execute(stream, product.arguments);
  stream.wait();
}

// By oneDNN's BLAS, which copies parts of both operands into the order in which it reads them: on
// all threads a sixth faster than the above, which reads a weight as it lies.
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

// Whether oneDNN multiplies bfloat16 on this processor: it does from AVX-512 on.
bool multiplies_bfloat16() {
  static const bool does = [] {
    try {
      const Operand one{nullptr, 1, false};
      compile(1, 1, 1, one, one, LLM_BFLOAT16, false, 1, LLM_FLOAT32, false);
      return true;
    } catch (const dnnl::error &) {
      return false;
    }
  }();
  return does;
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
  if (dtype == LLM_FLOAT32 && !omp_in_parallel()) {
    multiply_float(m, n, k, a, b, bias, static_cast<float *>(c), c_stride, accumulate);
  } else if (dtype == LLM_BFLOAT16 && !multiplies_bfloat16()) {
    multiply_widened(m, n, k, a, b, bias, c, c_stride, c_dtype, accumulate);
  } else {
    multiply(m, n, k, a, b, dtype, bias, c, c_stride, c_dtype, accumulate);
  }
}

}  // namespace llm

int llm_cpu_matmul(int64_t m, int64_t n, int64_t k, const void *a, int a_transposed, const void *b,
                   int b_transposed, llm_dtype dtype, const float *bias, void *c, llm_dtype c_dtype,
                   int accumulate) {
  return llm::guarded([&] {
    llm::require(m >= 0 && n >= 0 && k > 0, "a product of sizes below zero, or over nothing");
    if (m == 0 || n == 0) return;
    const llm::Operand left{a, a_transposed ? m : k, a_transposed != 0};
    const llm::Operand right{b, b_transposed ? k : n, b_transposed != 0};
    llm::matmul(m, n, k, left, right, dtype, bias, c, n, c_dtype, accumulate != 0);
  });
}
