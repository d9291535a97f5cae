// The operators on CUDA devices behind a C interface, which knows no framework.
//
// Pointers are to device memory and strides count elements; the last dimension is always
// contiguous. Work is queued on `stream` (a cudaStream_t; NULL is the default stream) and no
// function waits for it. Every function returns 0, or a status for llm_ops_error_string(); arguments
// are checked before anything is queued. Sums are in float32 and in a fixed order: the same input
// gives the same bits. Nothing is allocated: a caller gives what workspace a function needs.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#pragma GCC visibility push(default)
#endif

typedef enum { LLM_OPS_FLOAT32 = 0, LLM_OPS_BFLOAT16 = 1, LLM_OPS_FLOAT16 = 2 } llm_ops_dtype;

typedef enum {
  LLM_OPS_OK = 0,
  LLM_OPS_NULL_POINTER = 1,
  LLM_OPS_BAD_SHAPE = 2,
  LLM_OPS_BAD_STRIDE = 3,
  LLM_OPS_UNSUPPORTED_DTYPE = 4,
  LLM_OPS_UNSUPPORTED_HEAD_SIZE = 5,
  LLM_OPS_MISALIGNED = 6,
  LLM_OPS_LAUNCH_FAILED = 7,
  LLM_OPS_BAD_OPTION = 8
} llm_ops_status;

// What a status means and what would be right, in English. Never NULL.
const char *llm_ops_error_string(int status);
// Raised whenever a signature here changes.
int llm_ops_interface(void);

// [rows, width], rows `stride` elements apart (at least width).
typedef struct {
  void *data;
  int64_t stride;
} llm_ops_matrix;

// [batch, length, heads, size] in any order of the first three.
typedef struct {
  void *data;
  int64_t batch_stride, position_stride, head_stride;
} llm_ops_heads;

// ---- Norms ----------------------------------------------------------------------------------
// With sum = x + residual, rounded to dtype (sum = x where residual.data is NULL, and then sum is
// not written): y = sum · r · weight, r = 1 / sqrt(mean(sum²) + epsilon).
// x, residual, sum and y: dtype [rows, width]; sum may be x or residual. weight: dtype [width].
// inverse: float32 [rows], r, kept for the backward pass.
int llm_ops_rms_norm(int64_t rows, int64_t width, llm_ops_dtype dtype, llm_ops_matrix x,
                     llm_ops_matrix residual, llm_ops_matrix sum, const void *weight,
                     float epsilon, llm_ops_matrix y, float *inverse, void *stream);
// The gradient of x, which is that of residual, too. sum: what was normalised. dsum: the gradient
// that reaches sum from elsewhere (data NULL: none). dx may be dy or dsum. dweight: float32 [width].
// workspace: float32 [llm_ops_norm_workspace(rows, width)].
int llm_ops_rms_norm_backward(int64_t rows, int64_t width, llm_ops_dtype dtype, llm_ops_matrix dy,
                              llm_ops_matrix sum, const void *weight, const float *inverse,
                              llm_ops_matrix dsum, llm_ops_matrix dx, float *dweight,
                              float *workspace, void *stream);

// The same with y = (sum - mean) · r · weight + bias, r = 1 / sqrt(var + epsilon).
int llm_ops_layer_norm(int64_t rows, int64_t width, llm_ops_dtype dtype, llm_ops_matrix x,
                       llm_ops_matrix residual, llm_ops_matrix sum, const void *weight,
                       const void *bias, float epsilon, llm_ops_matrix y, float *mean,
                       float *inverse, void *stream);
int llm_ops_layer_norm_backward(int64_t rows, int64_t width, llm_ops_dtype dtype,
                                llm_ops_matrix dy, llm_ops_matrix sum, const void *weight,
                                const float *mean, const float *inverse, llm_ops_matrix dsum,
                                llm_ops_matrix dx, float *dweight, float *dbias, float *workspace,
                                void *stream);
// How many floats a norm's backward pass needs; 0 for a shape that it refuses. It takes widths up to
// 40944, that of layer norm up to 20472: their sums are in shared memory.
int64_t llm_ops_norm_workspace(int64_t rows, int64_t width);

// ---- Rotary embedding -----------------------------------------------------------------------
// y is x with its first `turned` features rotated: they are cut into `spans` equal spans, and a
// span's first half (a) is paired with its second (b): (a cos - b sin, b cos + a sin). turned / 2
// spans pair neighbours. x, y: dtype [batch, length, heads, size]; y may be x.
// cos, sin: float32 [length, turned], both halves of a span alike; table_batch_stride elements lie
// between the tables of two samples, 0 where one serves all.
// sign: 1, or -1 to rotate back, which is the gradient.
int llm_ops_rotary(int64_t batch, int64_t length, int64_t heads, int64_t size, int64_t turned,
                   int64_t spans, llm_ops_dtype dtype, llm_ops_heads x, const float *cos,
                   const float *sin, int64_t table_batch_stride, int sign, llm_ops_heads y,
                   void *stream);

// ---- Gated activation -----------------------------------------------------------------------
typedef enum {
  LLM_OPS_SILU = 0,
  LLM_OPS_GELU = 1,
  LLM_OPS_GELU_TANH = 2,
  LLM_OPS_RELU = 3
} llm_ops_activation_kind;

// y = f(x) · up, or f(x) where up.data is NULL; all dtype [rows, width]. SwiGLU is SILU with up,
// GEGLU is GELU with up. x and up may be halves of one matrix.
int llm_ops_activation(int64_t rows, int64_t width, llm_ops_activation_kind kind,
                       llm_ops_dtype dtype, llm_ops_matrix x, llm_ops_matrix up, llm_ops_matrix y,
                       void *stream);
// dup is written where up is given. dx may be x or dy, dup may be up or dy.
int llm_ops_activation_backward(int64_t rows, int64_t width, llm_ops_activation_kind kind,
                                llm_ops_dtype dtype, llm_ops_matrix dy, llm_ops_matrix x,
                                llm_ops_matrix up, llm_ops_matrix dx, llm_ops_matrix dup,
                                void *stream);

// ---- Flash attention ------------------------------------------------------------------------
// What a query sees: itself and the keys before it. NULL leaves a rule out.
typedef struct {
  const float *slopes;             // [heads]: slope · (key - query) joins a score (ALiBi)
  const int64_t *prefix_ends;      // [batch, length], never falling: all keys before it are seen
  const int64_t *document_starts;  // [batch, length], never falling: nothing before it is seen
} llm_ops_mask;

// y = softmax(q kᵀ / sqrt(size) + bias) v in bfloat16 or float16, of heads of 64, 80, 96 or 128
// features. q, y: [batch, length, heads, size]; k, v: [batch, length, key_heads, size], where
// key_heads divides heads. Pointers are aligned to 16 bytes and strides are multiples of 8.
// log_sums: float32 [batch, heads, length], the log of each row's sum of exponentials.
int llm_ops_flash_attention(int64_t batch, int64_t length, int64_t heads, int64_t key_heads,
                            int64_t size, llm_ops_dtype dtype, llm_ops_heads q, llm_ops_heads k,
                            llm_ops_heads v, llm_ops_mask mask, llm_ops_heads y, float *log_sums,
                            void *stream);
// corrections: float32 [batch, heads, length], a workspace.
int llm_ops_flash_attention_backward(int64_t batch, int64_t length, int64_t heads,
                                     int64_t key_heads, int64_t size, llm_ops_dtype dtype,
                                     llm_ops_heads q, llm_ops_heads k, llm_ops_heads v,
                                     llm_ops_mask mask, llm_ops_heads y, const float *log_sums,
                                     llm_ops_heads dy, float *corrections, llm_ops_heads dq,
                                     llm_ops_heads dk, llm_ops_heads dv, void *stream);

// ---- Cross entropy over chunks of the vocabulary ----------------------------------------------
// Logits are never whole: the caller multiplies by a chunk of the head's columns (cuBLAS), hands
// the product to these functions and uses its memory again for the next chunk.
//   forward:  begin; for each chunk: logits = x W_c, add; [reduce over ranks]; loss
//   backward: for each chunk: logits = x W_c, backward turns them into dlogits; dx += dlogits W_cᵀ,
//             dW_c = xᵀ dlogits
// Tensor-parallel ranks each hold a part of the vocabulary. Of their states, all [rows] of
// `maximum` are reduced by max into m; `sum` is rescaled by llm_ops_cross_entropy_rescale to m and
// then reduced by adding, as `label_logit` is.
//
// maximum, sum, label_logit: float32 [rows]. labels: int64 [rows], in the whole vocabulary; a row
// whose label is ignore_index has loss 0 and no gradient. Every other label lies in the vocabulary.
int llm_ops_cross_entropy_begin(int64_t rows, float *maximum, float *sum, float *label_logit,
                                void *stream);
// logits: dtype [rows, width], of the vocabulary's entries first_entry, first_entry + 1, ...
int llm_ops_cross_entropy_add(int64_t rows, int64_t width, llm_ops_dtype dtype,
                              llm_ops_matrix logits, const int64_t *labels, int64_t first_entry,
                              float *maximum, float *sum, float *label_logit, void *stream);
int llm_ops_cross_entropy_rescale(int64_t rows, const float *maximum, const float *new_maximum,
                                  float *sum, void *stream);
// losses = log_sums - label_logit, log_sums = maximum + log(sum): float32 [rows].
int llm_ops_cross_entropy_loss(int64_t rows, const int64_t *labels, int64_t ignore_index,
                               const float *maximum, const float *sum, const float *label_logit,
                               float *losses, float *log_sums, void *stream);
// logits become their gradient in place: (exp(logit - log_sum) - [entry is label]) · dloss.
int llm_ops_cross_entropy_backward(int64_t rows, int64_t width, llm_ops_dtype dtype,
                                   llm_ops_matrix logits, const int64_t *labels,
                                   int64_t first_entry, int64_t ignore_index,
                                   const float *log_sums, const float *dlosses, void *stream);

// ---- AdamW ----------------------------------------------------------------------------------
// One tensor of many. All of its arrays are [count].
typedef struct {
  int64_t count;
  float *master, *moment1, *moment2;
  const void *gradient;  // gradient_dtype
  void *weights;         // weights_dtype: gets the new master, rounded; NULL: there is none
  float weight_decay;
} llm_ops_adamw_tensor;

// Loshchilov and Hutter, arXiv:1711.05101, in place on `tensors` (an array of `tensor_count` in host
// memory, which may be freed on return). With g = factor · gradient and correction_i = 1 - beta_i^t:
//   m1 = beta1 m1 + (1 - beta1) g;  m2 = beta2 m2 + (1 - beta2) g²
//   w = w (1 - learning_rate · weight_decay)
//       - learning_rate · (m1 / correction1) / (sqrt(m2 / correction2) + epsilon)
int llm_ops_adamw(int64_t tensor_count, const llm_ops_adamw_tensor *tensors,
                  llm_ops_dtype gradient_dtype, llm_ops_dtype weights_dtype, float factor,
                  float learning_rate, float beta1, float beta2, float epsilon, float correction1,
                  float correction2, void *stream);

#ifdef __cplusplus
#pragma GCC visibility pop
}
#endif
