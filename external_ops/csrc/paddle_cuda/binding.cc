// llm_ops.h as operators of Paddle, of the same names. No operator has a gradient of its own here:
// the PyLayers of llm_pretrain/ops call the backward operators.
//
// Paddle's infer-shape functions are left out, as the operators are run eagerly alone.
// Operators need no pybind, and with it come headers of cuBLAS.
#define PADDLE_NO_PYTHON

#include <string>
#include <vector>

#include "llm_ops.h"
#include "paddle/extension.h"

namespace {

using paddle::DataType;
using paddle::Tensor;
using OptionalTensor = paddle::optional<Tensor>;
using Tensors = std::vector<Tensor>;

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

template <class T>
T *pointer(const Tensor &tensor) {
  PD_CHECK(tensor.is_gpu(), "All tensors must be on the GPU.");
  return const_cast<T *>(tensor.data<T>());
}

void *address(const Tensor &tensor) {
  PD_CHECK(tensor.is_gpu(), "All tensors must be on the GPU.");
  return const_cast<void *>(tensor.data());
}

int64_t width_of(const Tensor &x) { return x.shape().back(); }
int64_t rows_of(const Tensor &x) { return x.numel() / width_of(x); }

// All but the last dimension are rows.
llm_ops_matrix matrix(const Tensor &x) {
  PD_CHECK(x.is_contiguous(), "Matrices must be contiguous.");
  return {address(x), width_of(x)};
}

llm_ops_matrix matrix(const OptionalTensor &x) { return x ? matrix(*x) : llm_ops_matrix{}; }

llm_ops_heads heads(const Tensor &x) {
  PD_CHECK(x.shape().size() == 4, "Heads are [batch, length, heads, size].");
  const auto strides = x.strides();
  PD_CHECK(strides[3] == 1, "The last dimension must be contiguous.");
  return {address(x), strides[0], strides[1], strides[2]};
}

Tensor floats(const std::vector<int64_t> &shape, const Tensor &like) {
  return paddle::empty(shape, DataType::FLOAT32, like.place());
}

Tensor same(const Tensor &x) { return paddle::empty(x.shape(), x.dtype(), x.place()); }

llm_ops_mask mask_of(const OptionalTensor &slopes, const OptionalTensor &prefix_ends,
                     const OptionalTensor &document_starts) {
  return {slopes ? pointer<float>(*slopes) : nullptr,
          prefix_ends ? pointer<int64_t>(*prefix_ends) : nullptr,
          document_starts ? pointer<int64_t>(*document_starts) : nullptr};
}

// y, sum and r; sum is x itself where there is no residual.
Tensors rms_norm(const Tensor &x, const OptionalTensor &residual, const Tensor &weight,
                 float epsilon) {
  Tensor y = same(x), sum = residual ? same(x) : x, inverse = floats({rows_of(x)}, x);
  check(llm_ops_rms_norm(rows_of(x), width_of(x), dtype_of(x), matrix(x), matrix(residual),
                         matrix(sum), address(weight), epsilon, matrix(y), pointer<float>(inverse),
                         x.stream()));
  return {y, sum, inverse};
}

Tensors rms_norm_backward(const Tensor &dy, const Tensor &sum, const Tensor &weight,
                          const Tensor &inverse, const OptionalTensor &dsum) {
  const int64_t rows = rows_of(dy), width = width_of(dy);
  Tensor dx = same(dy), dweight = floats({width}, dy);
  Tensor workspace = floats({llm_ops_norm_workspace(rows, width)}, dy);
  check(llm_ops_rms_norm_backward(rows, width, dtype_of(dy), matrix(dy), matrix(sum),
                                  address(weight), pointer<float>(inverse), matrix(dsum),
                                  matrix(dx), pointer<float>(dweight), pointer<float>(workspace),
                                  dy.stream()));
  return {dx, dweight};
}

// y, sum, mean and r.
Tensors layer_norm(const Tensor &x, const OptionalTensor &residual, const Tensor &weight,
                   const Tensor &bias, float epsilon) {
  Tensor y = same(x), sum = residual ? same(x) : x;
  Tensor mean = floats({rows_of(x)}, x), inverse = floats({rows_of(x)}, x);
  check(llm_ops_layer_norm(rows_of(x), width_of(x), dtype_of(x), matrix(x), matrix(residual),
                           matrix(sum), address(weight), address(bias), epsilon, matrix(y),
                           pointer<float>(mean), pointer<float>(inverse), x.stream()));
  return {y, sum, mean, inverse};
}

Tensors layer_norm_backward(const Tensor &dy, const Tensor &sum, const Tensor &weight,
                            const Tensor &mean, const Tensor &inverse,
                            const OptionalTensor &dsum) {
  const int64_t rows = rows_of(dy), width = width_of(dy);
  Tensor dx = same(dy), dweight = floats({width}, dy), dbias = floats({width}, dy);
  Tensor workspace = floats({llm_ops_norm_workspace(rows, width)}, dy);
  check(llm_ops_layer_norm_backward(
      rows, width, dtype_of(dy), matrix(dy), matrix(sum), address(weight), pointer<float>(mean),
      pointer<float>(inverse), matrix(dsum), matrix(dx), pointer<float>(dweight),
      pointer<float>(dbias), pointer<float>(workspace), dy.stream()));
  return {dx, dweight, dbias};
}

Tensors rotary(const Tensor &x, const Tensor &cos, const Tensor &sin, int spans, int sign) {
  Tensor y = same(x);
  const auto shape = x.shape();
  const int64_t table_stride = cos.shape().size() == 3 ? cos.shape()[1] * cos.shape()[2] : 0;
  check(llm_ops_rotary(shape[0], shape[1], shape[2], shape[3], width_of(cos), spans, dtype_of(x),
                       heads(x), pointer<float>(cos), pointer<float>(sin), table_stride, sign,
                       heads(y), x.stream()));
  return {y};
}

Tensors activation(const Tensor &x, const OptionalTensor &up, int kind) {
  Tensor y = same(x);
  check(llm_ops_activation(rows_of(x), width_of(x), static_cast<llm_ops_activation_kind>(kind),
                           dtype_of(x), matrix(x), matrix(up), matrix(y), x.stream()));
  return {y};
}

// dx, and dup, which is dx where there is no gate.
Tensors activation_backward(const Tensor &dy, const Tensor &x, const OptionalTensor &up,
                            int kind) {
  Tensor dx = same(x), dup = up ? same(x) : dx;
  check(llm_ops_activation_backward(
      rows_of(x), width_of(x), static_cast<llm_ops_activation_kind>(kind), dtype_of(x),
      matrix(dy), matrix(x), matrix(up), matrix(dx), matrix(dup), x.stream()));
  return {dx, dup};
}

// y and log-sums.
Tensors flash_attention(const Tensor &q, const Tensor &k, const Tensor &v,
                        const OptionalTensor &slopes, const OptionalTensor &prefix_ends,
                        const OptionalTensor &document_starts) {
  const auto shape = q.shape();
  Tensor y = same(q), log_sums = floats({shape[0], shape[2], shape[1]}, q);
  check(llm_ops_flash_attention(shape[0], shape[1], shape[2], k.shape()[2], shape[3], dtype_of(q),
                                heads(q), heads(k), heads(v),
                                mask_of(slopes, prefix_ends, document_starts), heads(y),
                                pointer<float>(log_sums), q.stream()));
  return {y, log_sums};
}

Tensors flash_attention_backward(const Tensor &q, const Tensor &k, const Tensor &v,
                                 const Tensor &y, const Tensor &log_sums, const Tensor &dy,
                                 const OptionalTensor &slopes,
                                 const OptionalTensor &prefix_ends,
                                 const OptionalTensor &document_starts) {
  const auto shape = q.shape();
  Tensor dq = same(q), dk = same(k), dv = same(v), corrections = same(log_sums);
  check(llm_ops_flash_attention_backward(
      shape[0], shape[1], shape[2], k.shape()[2], shape[3], dtype_of(q), heads(q), heads(k),
      heads(v), mask_of(slopes, prefix_ends, document_starts), heads(y),
      pointer<float>(log_sums), heads(dy), pointer<float>(corrections), heads(dq), heads(dk),
      heads(dv), q.stream()));
  return {dq, dk, dv};
}

// maximum, sum and logit of the label, before any chunk.
Tensors cross_entropy_begin(const Tensor &labels) {
  const int64_t rows = labels.numel();
  Tensor maximum = floats({rows}, labels), sum = floats({rows}, labels);
  Tensor label_logit = floats({rows}, labels);
  check(llm_ops_cross_entropy_begin(rows, pointer<float>(maximum), pointer<float>(sum),
                                    pointer<float>(label_logit), labels.stream()));
  return {maximum, sum, label_logit};
}

void cross_entropy_add(const Tensor &logits, const Tensor &labels, Tensor &maximum, Tensor &sum,
                       Tensor &label_logit, int64_t first_entry) {
  check(llm_ops_cross_entropy_add(rows_of(logits), width_of(logits), dtype_of(logits),
                                  matrix(logits), pointer<int64_t>(labels), first_entry,
                                  pointer<float>(maximum), pointer<float>(sum),
                                  pointer<float>(label_logit), logits.stream()));
}

void cross_entropy_rescale(const Tensor &maximum, const Tensor &new_maximum, Tensor &sum) {
  check(llm_ops_cross_entropy_rescale(sum.numel(), pointer<float>(maximum),
                                      pointer<float>(new_maximum), pointer<float>(sum),
                                      sum.stream()));
}

// Losses and log-sums.
Tensors cross_entropy_loss(const Tensor &labels, const Tensor &maximum, const Tensor &sum,
                           const Tensor &label_logit, int64_t ignore_index) {
  Tensor losses = same(sum), log_sums = same(sum);
  check(llm_ops_cross_entropy_loss(labels.numel(), pointer<int64_t>(labels), ignore_index,
                                   pointer<float>(maximum), pointer<float>(sum),
                                   pointer<float>(label_logit), pointer<float>(losses),
                                   pointer<float>(log_sums), labels.stream()));
  return {losses, log_sums};
}

void cross_entropy_backward(Tensor &logits, const Tensor &labels, const Tensor &log_sums,
                            const Tensor &dlosses, int64_t first_entry, int64_t ignore_index) {
  check(llm_ops_cross_entropy_backward(
      rows_of(logits), width_of(logits), dtype_of(logits), matrix(logits),
      pointer<int64_t>(labels), first_entry, ignore_index, pointer<float>(log_sums),
      pointer<float>(dlosses), logits.stream()));
}

// The masters alone: buckets round them into weights when they gather them.
void adamw(Tensors &masters, Tensors &moments1, Tensors &moments2, const Tensors &gradients,
           const std::vector<float> &weight_decays, float factor, float learning_rate, float beta1,
           float beta2, float epsilon, float correction1, float correction2) {
  std::vector<llm_ops_adamw_tensor> tensors;
  for (size_t i = 0; i < masters.size(); ++i) {
    PD_CHECK(gradients[i].dtype() == gradients[0].dtype(), "Gradients must have one dtype.");
    tensors.push_back({masters[i].numel(), pointer<float>(masters[i]), pointer<float>(moments1[i]),
                       pointer<float>(moments2[i]), address(gradients[i]), nullptr,
                       weight_decays[i]});
  }
  if (tensors.empty()) { return; }
  check(llm_ops_adamw(tensors.size(), tensors.data(), dtype_of(gradients[0]), LLM_OPS_FLOAT32,
                      factor, learning_rate, beta1, beta2, epsilon, correction1, correction2,
                      masters[0].stream()));
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
