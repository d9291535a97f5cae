#include "product.h"

#include <omp.h>

#include <array>
#include <cstring>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <unordered_map>

#include "scratch.h"
#include "vector_math.h"

namespace llm {
namespace {

using dnnl::memory;

memory::data_type type_of(llm_dtype dtype) {
  return dtype == LLM_BFLOAT16 ? memory::data_type::bf16 : memory::data_type::f32;
}

// An operand on its way into the order that a product reads.
struct Turn {
  dnnl::reorder primitive;
  memory from, to;
};

// A compiled product and what it is called with, of which only the data differ between calls.
struct Product {
  dnnl::matmul primitive;
  std::unordered_map<int, memory> arguments;
  std::optional<Turn> turn_a, turn_b;
};

// All that a compiled product depends on, the number of its threads included.
using Key = std::array<int64_t, 14>;

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

// From this many rows on, copying operands of bfloat16 into the order in which they are read costs
// less than reading them as they lie.
constexpr int64_t kRowsToPack = 512;

// The order in which a product of bfloat16 with m rows reads b [k, n] fastest.
memory::desc describe_packed(int64_t m, int64_t n, int64_t k) {
  const memory::desc any({k, n}, memory::data_type::bf16, memory::format_tag::any);
  const dnnl::matmul::primitive_desc descriptor(
      engine(), describe(m, k, LLM_BFLOAT16, k, false), any, describe(m, n, LLM_BFLOAT16, n, false));
  return descriptor.weights_desc();
}

std::optional<Turn> turn(const memory::desc &from, const memory::desc &to) {
  if (from == to) return {};
  memory source(from, engine(), DNNL_MEMORY_NONE), target(to, engine(), DNNL_MEMORY_NONE);
  return Turn{dnnl::reorder(source, target), source, target};
}

Product compile(int64_t m, int64_t n, int64_t k, const Operand &a, const Operand &b,
                llm_dtype dtype, bool has_bias, int64_t c_stride, llm_dtype c_dtype,
                bool accumulate, bool packs) {
  const memory::desc left = describe(m, k, dtype, a.stride, a.transposed);
  const memory::desc read_left =
      packs && a.transposed ? memory::desc({m, k}, type_of(dtype), memory::format_tag::any) : left;
  // A weight that is read transposed is slower to pack than to read.
  const bool reads_packed = b.packed || (packs && !b.transposed);
  const memory::desc as_it_lies = describe(k, n, dtype, b.stride, b.transposed);
  const memory::desc read_right = reads_packed ? describe_packed(m, n, k) : as_it_lies;
  const memory::desc right = b.packed ? read_right : as_it_lies;
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
    descriptor =
        dnnl::matmul::primitive_desc(engine(), read_left, read_right, row, result, attributes);
    add(DNNL_ARG_BIAS, row);
  } else {
    descriptor = dnnl::matmul::primitive_desc(engine(), read_left, read_right, result, attributes);
  }
  add(DNNL_ARG_SRC, descriptor.src_desc());
  add(DNNL_ARG_WEIGHTS, read_right);
  add(DNNL_ARG_DST, result);
  add(DNNL_ARG_SCRATCHPAD, descriptor.scratchpad_desc());
  product.turn_a = turn(left, descriptor.src_desc());
  product.turn_b = turn(right, read_right);
  product.primitive = dnnl::matmul(descriptor);
  return product;
}

// A thread's products stay for its life, since a model has few shapes; where it has many after all,
// the lot is dropped now and then.
constexpr size_t kMostProducts = 4096;

dnnl::stream &stream() {
  thread_local dnnl::stream of_thread(engine());
  return of_thread;
}

}  // namespace

void multiply(int64_t m, int64_t n, int64_t k, const Operand &a, const Operand &b, llm_dtype dtype,
              const float *bias, void *c, int64_t c_stride, llm_dtype c_dtype, bool accumulate) {
  thread_local std::map<Key, Product> products;
  thread_local Scratch scratch;
  const Key key{m, n, k, a.stride, a.transposed, b.stride, b.transposed, b.packed,
                dtype, bias != nullptr, c_stride, c_dtype, accumulate,
                omp_in_parallel() ? 1 : omp_get_max_threads()};
  auto found = products.find(key);
  if (found == products.end()) {
    if (products.size() >= kMostProducts) products.clear();
    const bool packs = dtype == LLM_BFLOAT16 && m >= kRowsToPack && !omp_in_parallel();
    found = products.emplace(key, compile(m, n, k, a, b, dtype, bias != nullptr, c_stride, c_dtype,
                                          accumulate, packs)).first;
  }
  Product &product = found->second;
  const auto place = [&](int name, const void *data) {
    product.arguments.at(name).set_data_handle(const_cast<void *>(data));
  };
  const auto bytes_of = [](const std::optional<Turn> &turn) {
    return turn ? turn->to.get_desc().get_size() : 0;
  };
  const auto [pad, turned_a, turned_b] = scratch.take<3>(
      {product.arguments.at(DNNL_ARG_SCRATCHPAD).get_desc().get_size(), bytes_of(product.turn_a),
       bytes_of(product.turn_b)});
  const auto turned = [](std::optional<Turn> &turn, const void *data, void *target) {
    if (!turn) return data;
    turn->from.set_data_handle(const_cast<void *>(data));
    turn->to.set_data_handle(target);
    turn->primitive.execute(stream(), turn->from, turn->to);
    return static_cast<const void *>(target);
  };
  place(DNNL_ARG_SRC, turned(product.turn_a, a.data, turned_a));
  place(DNNL_ARG_WEIGHTS, turned(product.turn_b, b.data, turned_b));
  place(DNNL_ARG_DST, c);
  place(DNNL_ARG_SCRATCHPAD, pad);
  if (bias != nullptr) place(DNNL_ARG_BIAS, bias);
  product.primitive.execute(stream(), product.arguments);
  stream().wait();
}

bool multiplies_bfloat16() {
  static const bool does = [] {
    try {
      const Operand one{nullptr, 1, false};
      compile(1, 1, 1, one, one, LLM_BFLOAT16, false, 1, LLM_FLOAT32, false, false);
      return true;
    } catch (const dnnl::error &) {
      return false;
    }
  }();
  return does;
}

int64_t packed_bytes(int64_t m, int64_t n, int64_t k) {
  return static_cast<int64_t>(describe_packed(m, n, k).get_size());
}

void pack(int64_t m, int64_t n, int64_t k, const Operand &b, llm_dtype dtype, void *packed) {
  const auto step =
      turn(describe(k, n, dtype, b.stride, b.transposed), describe_packed(m, n, k));
  if (!step) {
    std::memcpy(packed, b.data, n * k * bytes_of(dtype));
    return;
  }
  memory source = step->from, target = step->to;
  source.set_data_handle(const_cast<void *>(b.data));
  target.set_data_handle(packed);
  step->primitive.execute(stream(), source, target);
  stream().wait();
}

}  // namespace llm
