#include "matmul.h"

#include <omp.h>

#include <array>
#include <map>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <shared_mutex>
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

struct Product {
  dnnl::matmul primitive;
  memory::desc a, b, c, bias, scratchpad;
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
  Product product;
  product.a = describe(m, k, dtype, a.stride, a.transposed);
  product.b = describe(k, n, dtype, b.stride, b.transposed);
  product.c = describe(m, n, c_dtype, c_stride, false);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  if (has_bias) product.bias = memory::desc({1, n}, memory::data_type::f32, memory::dims{n, 1});
  const auto descriptor =
      has_bias ? dnnl::matmul::primitive_desc(engine(), product.a, product.b, product.bias,
                                              product.c, attributes)
               : dnnl::matmul::primitive_desc(engine(), product.a, product.b, product.c, attributes);
  product.scratchpad = descriptor.scratchpad_desc();
  product.primitive = dnnl::matmul(descriptor);
  return product;
}

// Compiled products stay for the life of the process, since a model has few shapes; where it has
// many after all, the lot is dropped now and then.
constexpr size_t kMostProducts = 4096;

template <class Make>
Product find(const Key &key, const Make &make) {
  static std::map<Key, Product> products;
  static std::shared_mutex mutex;
  {
    std::shared_lock lock(mutex);
    const auto found = products.find(key);
    if (found != products.end()) return found->second;
  }
  Product made = make();
  std::unique_lock lock(mutex);
  if (products.size() >= kMostProducts) products.clear();
  products.emplace(key, made);
  return made;
}

void multiply(int64_t m, int64_t n, int64_t k, const Operand &a, const Operand &b, llm_dtype dtype,
              const float *bias, void *c, int64_t c_stride, llm_dtype c_dtype, bool accumulate) {
  const Key key{m, n, k, a.stride, a.transposed, b.stride, b.transposed,
                dtype, bias != nullptr, c_stride, c_dtype, accumulate,
                omp_in_parallel() ? 1 : omp_get_max_threads()};
  const Product product = find(key, [&] {
    return compile(m, n, k, a, b, dtype, bias != nullptr, c_stride, c_dtype, accumulate);
  });
  thread_local dnnl::stream stream(engine());
  thread_local std::vector<uint8_t> scratch;
  if (scratch.size() < product.scratchpad.get_size()) scratch.resize(product.scratchpad.get_size());
  const auto wrap = [](const memory::desc &desc, const void *data) {
    return memory(desc, engine(), const_cast<void *>(data));
  };
  std::unordered_map<int, memory> arguments{
      {DNNL_ARG_SRC, wrap(product.a, a.data)},
      {DNNL_ARG_WEIGHTS, wrap(product.b, b.data)},
      {DNNL_ARG_DST, wrap(product.c, c)},
      {DNNL_ARG_SCRATCHPAD, wrap(product.scratchpad, scratch.data())}};
  if (bias != nullptr) arguments.emplace(DNNL_ARG_BIAS, wrap(product.bias, bias));
  product.primitive.execute(stream, arguments);
  stream.wait();
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
  if (dtype == LLM_BFLOAT16 && !multiplies_bfloat16()) {
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
