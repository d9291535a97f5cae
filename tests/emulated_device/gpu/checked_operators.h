// The functions of llm_ops.h as Paddle's binding calls them, with addresses of the emulated device. Each
// says which memory it reads and writes, of the size that its shapes and strides announce; the device
// refuses what lies outside a tensor, or is no address of its own. The kernels get the bytes behind.
#pragma once
#include "llm_ops.h"
#include "operation.h"

namespace checked {

// One call: gathers what it uses while its arguments are made.
class Call {
 public:
  Call(const char *name, llm_ops_dtype dtype, void *stream) : size(dtype == LLM_OPS_FLOAT32 ? 4 : 2) {
    if (!stream) {
      fprintf(stderr, "\nllm_ops_%s is queued on no stream of the device\n", name);
      abort();
    }
    emulated_gpu::current = {std::string("llm_ops_") + name, {}};
  }

  template <class T>
  T *array(T *address, int64_t count, bool writes = !std::is_const_v<T>, size_t bytes = sizeof(T)) {
    if (!address || count <= 0) { return address; }
    emulated_gpu::current.accesses.push_back({address, count * bytes, writes});
    return reinterpret_cast<T *>(emulated_gpu::bytes_behind(address));
  }
  // Of the operator's dtype.
  const void *values(const void *address, int64_t count) {
    return array(static_cast<const char *>(address), count, false, size);
  }
  llm_ops_matrix matrix(llm_ops_matrix x, int64_t rows, int64_t width, bool writes) {
    const int64_t count = rows ? (rows - 1) * x.stride + width : 0;
    return {array(static_cast<char *>(x.data), count, writes, size), x.stride};
  }
  llm_ops_heads heads(llm_ops_heads x, int64_t batch, int64_t length, int64_t heads, int64_t width, bool writes) {
    const int64_t last = (batch - 1) * x.batch_stride + (length - 1) * x.position_stride + (heads - 1) * x.head_stride;
    auto data = array(static_cast<char *>(x.data), last + width, writes, size);
    return {data, x.batch_stride, x.position_stride, x.head_stride};
  }
  llm_ops_mask mask(llm_ops_mask rules, int64_t batch, int64_t length, int64_t heads) {
    return {array(rules.slopes, heads), array(rules.prefix_ends, batch * length),
            array(rules.document_starts, batch * length)};
  }

 private:
  const size_t size;
};

constexpr bool kReads = false, kWrites = true;

inline int rms_norm(int64_t rows, int64_t width, llm_ops_dtype dtype, llm_ops_matrix x, llm_ops_matrix residual,
                    llm_ops_matrix sum, const void *weight, float epsilon, llm_ops_matrix y, float *inverse,
                    void *stream) {
  Call call("rms_norm", dtype, stream);
  const bool adds = residual.data;
  return llm_ops_rms_norm(rows, width, dtype, call.matrix(x, rows, width, kReads),
                          call.matrix(residual, rows, width, kReads), call.matrix(sum, rows, width, adds),
                          call.values(weight, width), epsilon, call.matrix(y, rows, width, kWrites),
                          call.array(inverse, rows), stream);
}

inline int rms_norm_backward(int64_t rows, int64_t width, llm_ops_dtype dtype, llm_ops_matrix dy, llm_ops_matrix sum,
                             const void *weight, const float *inverse, llm_ops_matrix dsum, llm_ops_matrix dx,
                             float *dweight, float *workspace, void *stream) {
  Call call("rms_norm_backward", dtype, stream);
  return llm_ops_rms_norm_backward(rows, width, dtype, call.matrix(dy, rows, width, kReads),
                                   call.matrix(sum, rows, width, kReads), call.values(weight, width),
                                   call.array(inverse, rows), call.matrix(dsum, rows, width, kReads),
                                   call.matrix(dx, rows, width, kWrites), call.array(dweight, width),
                                   call.array(workspace, llm_ops_norm_workspace(rows, width)), stream);
}

inline int layer_norm(int64_t rows, int64_t width, llm_ops_dtype dtype, llm_ops_matrix x, llm_ops_matrix residual,
                      llm_ops_matrix sum, const void *weight, const void *bias, float epsilon, llm_ops_matrix y,
                      float *mean, float *inverse, void *stream) {
  Call call("layer_norm", dtype, stream);
  const bool adds = residual.data;
  return llm_ops_layer_norm(rows, width, dtype, call.matrix(x, rows, width, kReads),
                            call.matrix(residual, rows, width, kReads), call.matrix(sum, rows, width, adds),
                            call.values(weight, width), call.values(bias, width), epsilon,
                            call.matrix(y, rows, width, kWrites), call.array(mean, rows), call.array(inverse, rows),
                            stream);
}

inline int layer_norm_backward(int64_t rows, int64_t width, llm_ops_dtype dtype, llm_ops_matrix dy,
                               llm_ops_matrix sum, const void *weight, const float *mean, const float *inverse,
                               llm_ops_matrix dsum, llm_ops_matrix dx, float *dweight, float *dbias, float *workspace,
                               void *stream) {
  Call call("layer_norm_backward", dtype, stream);
  return llm_ops_layer_norm_backward(
      rows, width, dtype, call.matrix(dy, rows, width, kReads), call.matrix(sum, rows, width, kReads),
      call.values(weight, width), call.array(mean, rows), call.array(inverse, rows),
      call.matrix(dsum, rows, width, kReads), call.matrix(dx, rows, width, kWrites), call.array(dweight, width),
      call.array(dbias, width), call.array(workspace, llm_ops_norm_workspace(rows, width)), stream);
}

inline int rotary(int64_t batch, int64_t length, int64_t heads, int64_t size, int64_t turned, int64_t spans,
                  llm_ops_dtype dtype, llm_ops_heads x, const float *cos, const float *sin,
                  int64_t table_batch_stride, int sign, llm_ops_heads y, void *stream) {
  Call call("rotary", dtype, stream);
  const int64_t table = (batch - 1) * table_batch_stride + length * turned;
  return llm_ops_rotary(batch, length, heads, size, turned, spans, dtype,
                        call.heads(x, batch, length, heads, size, kReads), call.array(cos, table),
                        call.array(sin, table), table_batch_stride, sign,
                        call.heads(y, batch, length, heads, size, kWrites), stream);
}

inline int activation(int64_t rows, int64_t width, llm_ops_activation_kind kind, llm_ops_dtype dtype,
                      llm_ops_matrix x, llm_ops_matrix up, llm_ops_matrix y, void *stream) {
  Call call("activation", dtype, stream);
  return llm_ops_activation(rows, width, kind, dtype, call.matrix(x, rows, width, kReads),
                            call.matrix(up, rows, width, kReads), call.matrix(y, rows, width, kWrites), stream);
}

inline int activation_backward(int64_t rows, int64_t width, llm_ops_activation_kind kind, llm_ops_dtype dtype,
                               llm_ops_matrix dy, llm_ops_matrix x, llm_ops_matrix up, llm_ops_matrix dx,
                               llm_ops_matrix dup, void *stream) {
  Call call("activation_backward", dtype, stream);
  return llm_ops_activation_backward(rows, width, kind, dtype, call.matrix(dy, rows, width, kReads),
                                     call.matrix(x, rows, width, kReads), call.matrix(up, rows, width, kReads),
                                     call.matrix(dx, rows, width, kWrites), call.matrix(dup, rows, width, kWrites),
                                     stream);
}

inline int flash_attention(int64_t batch, int64_t length, int64_t heads, int64_t key_heads, int64_t size,
                           llm_ops_dtype dtype, llm_ops_heads q, llm_ops_heads k, llm_ops_heads v, llm_ops_mask mask,
                           llm_ops_heads y, float *log_sums, void *stream) {
  Call call("flash_attention", dtype, stream);
  return llm_ops_flash_attention(batch, length, heads, key_heads, size, dtype,
                                 call.heads(q, batch, length, heads, size, kReads),
                                 call.heads(k, batch, length, key_heads, size, kReads),
                                 call.heads(v, batch, length, key_heads, size, kReads),
                                 call.mask(mask, batch, length, heads),
                                 call.heads(y, batch, length, heads, size, kWrites),
                                 call.array(log_sums, batch * heads * length), stream);
}

inline int flash_attention_backward(int64_t batch, int64_t length, int64_t heads, int64_t key_heads, int64_t size,
                                    llm_ops_dtype dtype, llm_ops_heads q, llm_ops_heads k, llm_ops_heads v,
                                    llm_ops_mask mask, llm_ops_heads y, const float *log_sums, llm_ops_heads dy,
                                    float *corrections, llm_ops_heads dq, llm_ops_heads dk, llm_ops_heads dv,
                                    void *stream) {
  Call call("flash_attention_backward", dtype, stream);
  const int64_t rows = batch * heads * length;
  return llm_ops_flash_attention_backward(
      batch, length, heads, key_heads, size, dtype, call.heads(q, batch, length, heads, size, kReads),
      call.heads(k, batch, length, key_heads, size, kReads), call.heads(v, batch, length, key_heads, size, kReads),
      call.mask(mask, batch, length, heads), call.heads(y, batch, length, heads, size, kReads),
      call.array(log_sums, rows), call.heads(dy, batch, length, heads, size, kReads), call.array(corrections, rows),
      call.heads(dq, batch, length, heads, size, kWrites), call.heads(dk, batch, length, key_heads, size, kWrites),
      call.heads(dv, batch, length, key_heads, size, kWrites), stream);
}

inline int cross_entropy_begin(int64_t rows, float *maximum, float *sum, float *label_logit, void *stream) {
  Call call("cross_entropy_begin", LLM_OPS_FLOAT32, stream);
  return llm_ops_cross_entropy_begin(rows, call.array(maximum, rows), call.array(sum, rows),
                                     call.array(label_logit, rows), stream);
}

inline int cross_entropy_add(int64_t rows, int64_t width, llm_ops_dtype dtype, llm_ops_matrix logits,
                             const int64_t *labels, int64_t first_entry, float *maximum, float *sum,
                             float *label_logit, void *stream) {
  Call call("cross_entropy_add", dtype, stream);
  return llm_ops_cross_entropy_add(rows, width, dtype, call.matrix(logits, rows, width, kReads),
                                   call.array(labels, rows), first_entry, call.array(maximum, rows),
                                   call.array(sum, rows), call.array(label_logit, rows), stream);
}

inline int cross_entropy_rescale(int64_t rows, const float *maximum, const float *new_maximum, float *sum,
                                 void *stream) {
  Call call("cross_entropy_rescale", LLM_OPS_FLOAT32, stream);
  return llm_ops_cross_entropy_rescale(rows, call.array(maximum, rows), call.array(new_maximum, rows),
                                       call.array(sum, rows), stream);
}

inline int cross_entropy_loss(int64_t rows, const int64_t *labels, int64_t ignore_index, const float *maximum,
                              const float *sum, const float *label_logit, float *losses, float *log_sums,
                              void *stream) {
  Call call("cross_entropy_loss", LLM_OPS_FLOAT32, stream);
  return llm_ops_cross_entropy_loss(rows, call.array(labels, rows), ignore_index, call.array(maximum, rows),
                                    call.array(sum, rows), call.array(label_logit, rows), call.array(losses, rows),
                                    call.array(log_sums, rows), stream);
}

inline int cross_entropy_backward(int64_t rows, int64_t width, llm_ops_dtype dtype, llm_ops_matrix logits,
                                  const int64_t *labels, int64_t first_entry, int64_t ignore_index,
                                  const float *log_sums, const float *dlosses, void *stream) {
  Call call("cross_entropy_backward", dtype, stream);
  return llm_ops_cross_entropy_backward(rows, width, dtype, call.matrix(logits, rows, width, kWrites),
                                        call.array(labels, rows), first_entry, ignore_index,
                                        call.array(log_sums, rows), call.array(dlosses, rows), stream);
}

inline int adamw(int64_t tensor_count, const llm_ops_adamw_tensor *tensors, llm_ops_dtype gradient_dtype,
                 llm_ops_dtype weights_dtype, float factor, float learning_rate, float beta1, float beta2,
                 float epsilon, float correction1, float correction2, void *stream) {
  Call call("adamw", gradient_dtype, stream);
  std::vector<llm_ops_adamw_tensor> behind;
  for (int64_t i = 0; i < tensor_count; ++i) {
    const auto &[count, master, moment1, moment2, gradient, weights, weight_decay] = tensors[i];
    const size_t size = weights_dtype == LLM_OPS_FLOAT32 ? 4 : 2;
    behind.push_back({count, call.array(master, count), call.array(moment1, count), call.array(moment2, count),
                      call.values(gradient, count), call.array(static_cast<char *>(weights), count, kWrites, size),
                      weight_decay});
  }
  return llm_ops_adamw(tensor_count, behind.data(), gradient_dtype, weights_dtype, factor, learning_rate, beta1,
                       beta2, epsilon, correction1, correction2, stream);
}

}  // namespace checked

// Calls alone: Paddle's operators have the same names.
#define llm_ops_rms_norm(...) checked::rms_norm(__VA_ARGS__)
#define llm_ops_rms_norm_backward(...) checked::rms_norm_backward(__VA_ARGS__)
#define llm_ops_layer_norm(...) checked::layer_norm(__VA_ARGS__)
#define llm_ops_layer_norm_backward(...) checked::layer_norm_backward(__VA_ARGS__)
#define llm_ops_rotary(...) checked::rotary(__VA_ARGS__)
#define llm_ops_activation(...) checked::activation(__VA_ARGS__)
#define llm_ops_activation_backward(...) checked::activation_backward(__VA_ARGS__)
#define llm_ops_flash_attention(...) checked::flash_attention(__VA_ARGS__)
#define llm_ops_flash_attention_backward(...) checked::flash_attention_backward(__VA_ARGS__)
#define llm_ops_cross_entropy_begin(...) checked::cross_entropy_begin(__VA_ARGS__)
#define llm_ops_cross_entropy_add(...) checked::cross_entropy_add(__VA_ARGS__)
#define llm_ops_cross_entropy_rescale(...) checked::cross_entropy_rescale(__VA_ARGS__)
#define llm_ops_cross_entropy_loss(...) checked::cross_entropy_loss(__VA_ARGS__)
#define llm_ops_cross_entropy_backward(...) checked::cross_entropy_backward(__VA_ARGS__)
#define llm_ops_adamw(...) checked::adamw(__VA_ARGS__)
