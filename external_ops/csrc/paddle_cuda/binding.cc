// llm_ops.h as operators of Paddle, of the same names. No operator has a gradient of its own here:
// the PyLayers of llm_pretrain/ops call the backward operators.
//
// Paddle's infer-shape functions are left out, as the operators are run eagerly alone.
// Operators need no pybind, and with it come headers of cuBLAS.
#define PADDLE_NO_PYTHON

#include <string>
#include <vector>

#include <paddle_device.h>

#include "llm_ops.h"
#include "paddle/extension.h"

namespace {

using paddle::DataType;
using paddle::Tensor;
using OptionalTensor = paddle::optional<Tensor>;
using Tensors = std::vector<Tensor>;
using llm_ops::is_on_device;
using llm_ops::stream_of;

void check(int status) { PD_CHECK(status == LLM_OPS_OK, llm_ops_error_string(status)); }

llm_ops_dtype dtype_of(const Tensor &tensor) {
  switch (tensor.dtype()) {
    case DataType::FLOAT32:
      return LLM_OPS_FLOAT32;
    case DataType::BFLOAT16:
      return LLM_OPS_BFLOAT16;
    case DataType::FLOAT16:
      return LLM_OPS_FLOAT16;
    default:
      PD_THROW("The dtype must be float32, bfloat16 or float16.");
  }
}

// A wrong size or dtype would have a kernel read what isn't the tensor's.
void check_operand(const Tensor &tensor, DataType dtype, int64_t count) {
  PD_CHECK(is_on_device(tensor), "All tensors must be on the GPU.");
  PD_CHECK(tensor.dtype() == dtype, "A tensor is ", tensor.dtype(), " where ", dtype,
           " is needed.");
  PD_CHECK(tensor.numel() == count, "A tensor has ", tensor.numel(), " elements where ", count,
           " are needed.");
}

void *packed(const Tensor &tensor, DataType dtype, int64_t count) {
  check_operand(tensor, dtype, count);
  PD_CHECK(tensor.is_contiguous(), "A tensor has gaps where there must be none.");
  return const_cast<void *>(tensor.data());
}

template <class T>
T *vector(const Tensor &tensor, int64_t count) {
  return static_cast<T *>(packed(tensor, phi::CppTypeToDataType<T>::Type(), count));
}

int64_t width_of(const Tensor &x) { return x.shape().back(); }
int64_t rows_of(const Tensor &x) { return x.numel() / width_of(x); }

// Of the dtype and shape of `like`; all but the last dimension are rows.
llm_ops_matrix matrix(const Tensor &x, const Tensor &like) {
  return {packed(x, like.dtype(), like.numel()), width_of(like)};
}

llm_ops_matrix matrix(const OptionalTensor &x, const Tensor &like) {
  return x ? matrix(*x, like) : llm_ops_matrix{};
}

// A norm's weight or bias, in the dtype of what is normalised.
const void *parameter(const Tensor &tensor, const Tensor &x) {
  return packed(tensor, x.dtype(), width_of(x));
}

// [batch, length, heads, size], like `like` but for the number of heads.
llm_ops_heads heads(const Tensor &x, const Tensor &like) {
  const auto shape = x.shape(), other = like.shape();
  PD_CHECK(shape.size() == 4 && other.size() == 4, "Heads are [batch, length, heads, size].");
  check_operand(x, like.dtype(), other[0] * other[1] * shape[2] * other[3]);
  const auto strides = x.strides();
  PD_CHECK(strides[3] == 1, "The last dimension must be contiguous.");
  return {const_cast<void *>(x.data()), strides[0], strides[1], strides[2]};
}

Tensor floats(const std::vector<int64_t> &shape, const Tensor &like) {
  return paddle::empty(shape, DataType::FLOAT32, like.place());
}

Tensor same(const Tensor &x) { return paddle::empty(x.shape(), x.dtype(), x.place()); }

llm_ops_mask mask_of(const Tensor &q, const OptionalTensor &slopes,
                     const OptionalTensor &prefix_ends, const OptionalTensor &document_starts) {
  const int64_t positions = q.shape()[0] * q.shape()[1];
  return {slopes ? vector<float>(*slopes, q.shape()[2]) : nullptr,
          prefix_ends ? vector<int64_t>(*prefix_ends, positions) : nullptr,
          document_starts ? vector<int64_t>(*document_starts, positions) : nullptr};
}

// y, sum and r; sum is x itself where there is no residual.
Tensors rms_norm(const Tensor &x, const OptionalTensor &residual, const Tensor &weight,
                 float epsilon) {
  const int64_t rows = rows_of(x);
  Tensor y = same(x), sum = residual ? same(x) : x, inverse = floats({rows}, x);
  check(llm_ops_rms_norm(rows, width_of(x), dtype_of(x), matrix(x, x), matrix(residual, x),
                         matrix(sum, x), parameter(weight, x), epsilon, matrix(y, x),
                         vector<float>(inverse, rows), stream_of(x)));
  return {y, sum, inverse};
}

Tensors rms_norm_backward(const Tensor &dy, const Tensor &sum, const Tensor &weight,
                          const Tensor &inverse, const OptionalTensor &dsum) {
  const int64_t rows = rows_of(dy), width = width_of(dy);
  const int64_t scratch = llm_ops_norm_workspace(rows, width);
  Tensor dx = same(dy), dweight = floats({width}, dy), workspace = floats({scratch}, dy);
  check(llm_ops_rms_norm_backward(
      rows, width, dtype_of(dy), matrix(dy, dy), matrix(sum, dy), parameter(weight, dy),
      vector<float>(inverse, rows), matrix(dsum, dy), matrix(dx, dy),
      vector<float>(dweight, width), vector<float>(workspace, scratch), stream_of(dy)));
  return {dx, dweight};
}

// y, sum, mean and r.
Tensors layer_norm(const Tensor &x, const OptionalTensor &residual, const Tensor &weight,
                   const Tensor &bias, float epsilon) {
  const int64_t rows = rows_of(x);
  Tensor y = same(x), sum = residual ? same(x) : x;
  Tensor mean = floats({rows}, x), inverse = floats({rows}, x);
  check(llm_ops_layer_norm(rows, width_of(x), dtype_of(x), matrix(x, x), matrix(residual, x),
                           matrix(sum, x), parameter(weight, x), parameter(bias, x), epsilon,
                           matrix(y, x), vector<float>(mean, rows), vector<float>(inverse, rows),
                           stream_of(x)));
  return {y, sum, mean, inverse};
}

Tensors layer_norm_backward(const Tensor &dy, const Tensor &sum, const Tensor &weight,
                            const Tensor &mean, const Tensor &inverse,
                            const OptionalTensor &dsum) {
  const int64_t rows = rows_of(dy), width = width_of(dy);
  const int64_t scratch = llm_ops_norm_workspace(rows, width);
  Tensor dx = same(dy), dweight = floats({width}, dy), dbias = floats({width}, dy);
  Tensor workspace = floats({scratch}, dy);
  check(llm_ops_layer_norm_backward(
      rows, width, dtype_of(dy), matrix(dy, dy), matrix(sum, dy), parameter(weight, dy),
      vector<float>(mean, rows), vector<float>(inverse, rows), matrix(dsum, dy), matrix(dx, dy),
      vector<float>(dweight, width), vector<float>(dbias, width),
      vector<float>(workspace, scratch), stream_of(dy)));
  return {dx, dweight, dbias};
}

// cos and sin: [length, turned], or [batch, length, turned].
Tensors rotary(const Tensor &x, const Tensor &cos, const Tensor &sin, int spans, int sign) {
  Tensor y = same(x);
  const auto of_x = heads(x, x), of_y = heads(y, x);
  const auto shape = x.shape(), table = cos.shape();
  const bool by_sample = table.size() == 3;
  const int64_t turned = table.back(), of_sample = shape[1] * turned;
  const int64_t count = by_sample ? shape[0] * of_sample : of_sample;
  check(llm_ops_rotary(shape[0], shape[1], shape[2], shape[3], turned, spans, dtype_of(x), of_x,
                       vector<float>(cos, count), vector<float>(sin, count),
                       by_sample ? of_sample : 0, sign, of_y, stream_of(x)));
  return {y};
}

Tensors activation(const Tensor &x, const OptionalTensor &up, int kind) {
  Tensor y = same(x);
  check(llm_ops_activation(rows_of(x), width_of(x), static_cast<llm_ops_activation_kind>(kind),
                           dtype_of(x), matrix(x, x), matrix(up, x), matrix(y, x), stream_of(x)));
  return {y};
}

// dx, and dup, which is dx where there is no gate.
Tensors activation_backward(const Tensor &dy, const Tensor &x, const OptionalTensor &up,
                            int kind) {
  Tensor dx = same(x), dup = up ? same(x) : dx;
  check(llm_ops_activation_backward(rows_of(x), width_of(x),
                                    static_cast<llm_ops_activation_kind>(kind), dtype_of(x),
                                    matrix(dy, x), matrix(x, x), matrix(up, x), matrix(dx, x),
                                    matrix(dup, x), stream_of(x)));
  return {dx, dup};
}

// y and log-sums.
Tensors flash_attention(const Tensor &q, const Tensor &k, const Tensor &v,
                        const OptionalTensor &slopes, const OptionalTensor &prefix_ends,
                        const OptionalTensor &document_starts) {
  const auto of_q = heads(q, q), of_k = heads(k, q), of_v = heads(v, q);
  const auto shape = q.shape();
  PD_CHECK(k.shape() == v.shape(), "Keys and values differ in shape.");
  Tensor y = same(q), log_sums = floats({shape[0], shape[2], shape[1]}, q);
  check(llm_ops_flash_attention(shape[0], shape[1], shape[2], k.shape()[2], shape[3], dtype_of(q),
                                of_q, of_k, of_v,
                                mask_of(q, slopes, prefix_ends, document_starts), heads(y, q),
                                vector<float>(log_sums, log_sums.numel()), stream_of(q)));
  return {y, log_sums};
}

Tensors flash_attention_backward(const Tensor &q, const Tensor &k, const Tensor &v,
                                 const Tensor &y, const Tensor &log_sums, const Tensor &dy,
                                 const OptionalTensor &slopes,
                                 const OptionalTensor &prefix_ends,
                                 const OptionalTensor &document_starts) {
  const auto of_q = heads(q, q), of_k = heads(k, q), of_v = heads(v, q);
  const auto shape = q.shape();
  PD_CHECK(k.shape() == v.shape(), "Keys and values differ in shape.");
  const int64_t rows = shape[0] * shape[1] * shape[2];
  Tensor dq = same(q), dk = same(k), dv = same(v), corrections = same(log_sums);
  check(llm_ops_flash_attention_backward(
      shape[0], shape[1], shape[2], k.shape()[2], shape[3], dtype_of(q), of_q, of_k, of_v,
      mask_of(q, slopes, prefix_ends, document_starts), heads(y, q),
      vector<float>(log_sums, rows), heads(dy, q), vector<float>(corrections, rows), heads(dq, q),
      heads(dk, k), heads(dv, v), stream_of(q)));
  return {dq, dk, dv};
}

// maximum, sum and logit of the label, before any chunk.
Tensors cross_entropy_begin(const Tensor &labels) {
  const int64_t rows = labels.numel();
  Tensor maximum = floats({rows}, labels), sum = floats({rows}, labels);
  Tensor label_logit = floats({rows}, labels);
  check(llm_ops_cross_entropy_begin(rows, vector<float>(maximum, rows), vector<float>(sum, rows),
                                    vector<float>(label_logit, rows), stream_of(labels)));
  return {maximum, sum, label_logit};
}

void cross_entropy_add(const Tensor &logits, const Tensor &labels, Tensor &maximum, Tensor &sum,
                       Tensor &label_logit, int64_t first_entry) {
  const int64_t rows = rows_of(logits);
  check(llm_ops_cross_entropy_add(rows, width_of(logits), dtype_of(logits),
                                  matrix(logits, logits), vector<int64_t>(labels, rows),
                                  first_entry, vector<float>(maximum, rows),
                                  vector<float>(sum, rows), vector<float>(label_logit, rows),
                                  stream_of(logits)));
}

void cross_entropy_rescale(const Tensor &maximum, const Tensor &new_maximum, Tensor &sum) {
  const int64_t rows = sum.numel();
  check(llm_ops_cross_entropy_rescale(rows, vector<float>(maximum, rows),
                                      vector<float>(new_maximum, rows), vector<float>(sum, rows),
                                      stream_of(sum)));
}

// Losses and log-sums.
Tensors cross_entropy_loss(const Tensor &labels, const Tensor &maximum, const Tensor &sum,
                           const Tensor &label_logit, int64_t ignore_index) {
  const int64_t rows = labels.numel();
  Tensor losses = floats({rows}, labels), log_sums = floats({rows}, labels);
  check(llm_ops_cross_entropy_loss(rows, vector<int64_t>(labels, rows), ignore_index,
                                   vector<float>(maximum, rows), vector<float>(sum, rows),
                                   vector<float>(label_logit, rows), vector<float>(losses, rows),
                                   vector<float>(log_sums, rows), stream_of(labels)));
  return {losses, log_sums};
}

void cross_entropy_backward(Tensor &logits, const Tensor &labels, const Tensor &log_sums,
                            const Tensor &dlosses, int64_t first_entry, int64_t ignore_index) {
  const int64_t rows = rows_of(logits);
  check(llm_ops_cross_entropy_backward(
      rows, width_of(logits), dtype_of(logits), matrix(logits, logits),
      vector<int64_t>(labels, rows), first_entry, ignore_index, vector<float>(log_sums, rows),
      vector<float>(dlosses, rows), stream_of(logits)));
}

// The masters alone: buckets round them into weights when they gather them.
void adamw(Tensors &masters, Tensors &moments1, Tensors &moments2, const Tensors &gradients,
           const std::vector<float> &weight_decays, float factor, float learning_rate, float beta1,
           float beta2, float epsilon, float correction1, float correction2) {
  const size_t number = masters.size();
  if (number == 0) { return; }
  PD_CHECK(moments1.size() == number && moments2.size() == number &&
               gradients.size() == number && weight_decays.size() == number,
           "Every master needs two moments, a gradient and a weight decay.");
  std::vector<llm_ops_adamw_tensor> tensors;
  for (size_t i = 0; i < number; ++i) {
    const int64_t count = masters[i].numel();
    tensors.push_back({count, vector<float>(masters[i], count), vector<float>(moments1[i], count),
                       vector<float>(moments2[i], count),
                       packed(gradients[i], gradients[0].dtype(), count), nullptr, weight_decays[i]});
  }
  check(llm_ops_adamw(number, tensors.data(), dtype_of(gradients[0]), LLM_OPS_FLOAT32, factor,
                      learning_rate, beta1, beta2, epsilon, correction1, correction2,
                      stream_of(masters[0])));
}

using paddle::Optional;
using paddle::Vec;

}  // namespace

PD_BUILD_OP(llm_ops_rms_norm)
    .Inputs({"x", Optional("residual"), "weight"})
    .Outputs({"y", "sum", "inverse"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(rms_norm));
PD_BUILD_OP(llm_ops_rms_norm_backward)
    .Inputs({"dy", "sum", "weight", "inverse", Optional("dsum")})
    .Outputs({"dx", "dweight"})
    .SetKernelFn(PD_KERNEL(rms_norm_backward));
PD_BUILD_OP(llm_ops_layer_norm)
    .Inputs({"x", Optional("residual"), "weight", "bias"})
    .Outputs({"y", "sum", "mean", "inverse"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(layer_norm));
PD_BUILD_OP(llm_ops_layer_norm_backward)
    .Inputs({"dy", "sum", "weight", "mean", "inverse", Optional("dsum")})
    .Outputs({"dx", "dweight", "dbias"})
    .SetKernelFn(PD_KERNEL(layer_norm_backward));
PD_BUILD_OP(llm_ops_rotary)
    .Inputs({"x", "cos", "sin"})
    .Outputs({"y"})
    .Attrs({"spans: int", "sign: int"})
    .SetKernelFn(PD_KERNEL(rotary));
PD_BUILD_OP(llm_ops_activation)
    .Inputs({"x", Optional("up")})
    .Outputs({"y"})
    .Attrs({"kind: int"})
    .SetKernelFn(PD_KERNEL(activation));
PD_BUILD_OP(llm_ops_activation_backward)
    .Inputs({"dy", "x", Optional("up")})
    .Outputs({"dx", "dup"})
    .Attrs({"kind: int"})
    .SetKernelFn(PD_KERNEL(activation_backward));
PD_BUILD_OP(llm_ops_flash_attention)
    .Inputs({"q", "k", "v", Optional("slopes"), Optional("prefix_ends"),
             Optional("document_starts")})
    .Outputs({"y", "log_sums"})
    .SetKernelFn(PD_KERNEL(flash_attention));
PD_BUILD_OP(llm_ops_flash_attention_backward)
    .Inputs({"q", "k", "v", "y", "log_sums", "dy", Optional("slopes"),
             Optional("prefix_ends"), Optional("document_starts")})
    .Outputs({"dq", "dk", "dv"})
    .SetKernelFn(PD_KERNEL(flash_attention_backward));
PD_BUILD_OP(llm_ops_cross_entropy_begin)
    .Inputs({"labels"})
    .Outputs({"maximum", "sum", "label_logit"})
    .SetKernelFn(PD_KERNEL(cross_entropy_begin));
PD_BUILD_OP(llm_ops_cross_entropy_add)
    .Inputs({"logits", "labels", "maximum", "sum", "label_logit"})
    .Outputs({"new_maximum", "new_sum", "new_label_logit"})
    .SetInplaceMap({{"maximum", "new_maximum"}, {"sum", "new_sum"},
                    {"label_logit", "new_label_logit"}})
    .Attrs({"first_entry: int64_t"})
    .SetKernelFn(PD_KERNEL(cross_entropy_add));
PD_BUILD_OP(llm_ops_cross_entropy_rescale)
    .Inputs({"maximum", "new_maximum", "sum"})
    .Outputs({"new_sum"})
    .SetInplaceMap({{"sum", "new_sum"}})
    .SetKernelFn(PD_KERNEL(cross_entropy_rescale));
PD_BUILD_OP(llm_ops_cross_entropy_loss)
    .Inputs({"labels", "maximum", "sum", "label_logit"})
    .Outputs({"losses", "log_sums"})
    .Attrs({"ignore_index: int64_t"})
    .SetKernelFn(PD_KERNEL(cross_entropy_loss));
PD_BUILD_OP(llm_ops_cross_entropy_backward)
    .Inputs({"logits", "labels", "log_sums", "dlosses"})
    .Outputs({"dlogits"})
    .SetInplaceMap({{"logits", "dlogits"}})
    .Attrs({"first_entry: int64_t", "ignore_index: int64_t"})
    .SetKernelFn(PD_KERNEL(cross_entropy_backward));
PD_BUILD_OP(llm_ops_adamw)
    .Inputs({Vec("masters"), Vec("moments1"), Vec("moments2"), Vec("gradients")})
    .Outputs({Vec("new_masters"), Vec("new_moments1"), Vec("new_moments2")})
    .SetInplaceMap({{Vec("masters"), Vec("new_masters")},
                    {Vec("moments1"), Vec("new_moments1")},
                    {Vec("moments2"), Vec("new_moments2")}})
    .Attrs({"weight_decays: std::vector<float>", "factor: float", "learning_rate: float",
            "beta1: float", "beta2: float", "epsilon: float", "correction1: float",
            "correction2: float"})
    .SetKernelFn(PD_KERNEL(adamw));
