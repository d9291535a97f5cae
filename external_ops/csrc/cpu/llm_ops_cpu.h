// The operators on CPU behind a C interface, for ctypes. Tensors are plain pointers in C order.
//
// Every function returns 0, or a negative number: llm_cpu_error() then says what is wrong. They
// are deterministic for a fixed number of threads. What they keep between calls is a thread's compiled
// products, the largest memory that one of them needed, and what llm_cpu_take has had back.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#pragma GCC visibility push(default)
#endif

typedef enum { LLM_FLOAT32 = 0, LLM_BFLOAT16 = 1 } llm_dtype;

// The last error of the calling thread.
const char *llm_cpu_error(void);
// Raised whenever a signature here changes; the Python side refuses another one.
int llm_cpu_interface(void);
// The instruction set that is used, "amx", "avx512", "avx2" or "baseline": the processor's best, or the
// one that the environment variable LLM_PRETRAIN_OPS_ISA names; "none" if that is wrong, as every
// call then says.
const char *llm_cpu_instructions(void);

// A tensor whose values mean nothing yet, as a DLManagedTensor of DLPack's first version. When it is
// deleted, from whatever thread, its memory waits for the next tensor of that size.
int llm_cpu_take(const int64_t *shape, int64_t dims, llm_dtype dtype, void **tensor);
// The system gets what has lain idle since the last call.
int llm_cpu_give_back_memory(void);

// target[i] = source[i], rounded to nearest even.
int llm_cpu_cast(int64_t count, const void *source, llm_dtype from, void *target, llm_dtype to);

// How a weight b [k, n] lies in memory: as written, as [n, k], or as llm_cpu_pack leaves it.
typedef enum { LLM_PLAIN = 0, LLM_TRANSPOSED = 1, LLM_PACKED = 2 } llm_layout;

// b, float32 or bfloat16, plain or stored as [n, k], in bfloat16 and the order in which products of m
// rows on the present number of threads read it fastest; on another number it must be packed anew. Its
// size is 0 on processors without products of bfloat16.
int llm_cpu_packed_bytes(int64_t m, int64_t n, int64_t k, int64_t *bytes);
int llm_cpu_pack(int64_t m, int64_t n, int64_t k, const void *b, llm_dtype b_dtype,
                 int b_transposed, void *packed);

// c [m, n] = a [m, k] b [k, n] (+ bias [n], float32) (+ c where accumulate). a and b have one dtype;
// a transposed is stored as [k, m]. c is float32 or the dtype of a.
int llm_cpu_matmul(int64_t m, int64_t n, int64_t k, const void *a, int a_transposed, const void *b,
                   llm_layout b_layout, llm_dtype dtype, const float *bias, void *c,
                   llm_dtype c_dtype, int accumulate);

// sum = x + residual where residual is given (sum may be x itself); with r = 1 / sqrt(mean(sum²) +
// epsilon) per row: y = sum · r · weight. x, residual, sum, y: [rows, width]; r: [rows].
int llm_cpu_rms_norm(int64_t rows, int64_t width, const void *x, const void *residual,
                     llm_dtype residual_dtype, void *sum, llm_dtype dtype, const float *weight,
                     float epsilon, void *y, float *inverse);
// dx (+ dsum where given, the gradient of sum from elsewhere) and dweight [width].
int llm_cpu_rms_norm_backward(int64_t rows, int64_t width, const void *dy, const void *x,
                              llm_dtype dtype, const float *weight, const float *inverse,
                              const void *dsum, void *dx, float *dweight);

// The same with y = (sum - mean) · r · weight + bias, r = 1 / sqrt(var + epsilon) per row.
int llm_cpu_layer_norm(int64_t rows, int64_t width, const void *x, const void *residual,
                       llm_dtype residual_dtype, void *sum, llm_dtype dtype, const float *weight,
                       const float *bias, float epsilon, void *y, float *mean, float *inverse);
int llm_cpu_layer_norm_backward(int64_t rows, int64_t width, const void *dy, const void *x,
                                llm_dtype dtype, const float *weight, const float *mean,
                                const float *inverse, const void *dsum, void *dx, float *dweight,
                                float *dbias);

typedef enum { LLM_SILU = 0, LLM_GELU = 1, LLM_GELU_TANH = 2, LLM_RELU = 3 } llm_activation;

// y = f(x) · up, or f(x) where up is NULL. All [count].
int llm_cpu_activation(int64_t count, llm_activation kind, const void *x, const void *up,
                       llm_dtype dtype, void *y);
int llm_cpu_activation_backward(int64_t count, llm_activation kind, const void *dy, const void *x,
                                const void *up, llm_dtype dtype, void *dx, void *dup);

// y [batch, length, heads, size] is x with its first `turned` features rotated: they are cut into
// `spans` equal spans, whose first halves are paired with their second. cos and sin: [length, turned],
// or [batch, length, turned] where table_batch is batch and not 1. sign is -1 for the gradient.
int llm_cpu_rotary(int64_t batch, int64_t length, int64_t heads, int64_t size, int64_t turned,
                   int64_t spans, const void *x, llm_dtype dtype, const float *cos,
                   const float *sin, int64_t table_batch, float sign, void *y);

// What a position sees; NULL leaves a rule out. See llm_pretrain/ops/mask.py.
typedef struct {
  const float *slopes;             // [query heads]
  const int64_t *prefix_ends;      // [batch, length]
  const int64_t *document_starts;  // [batch, length]
} llm_mask;

// q, y: [batch, length, heads, size]; k, v: [batch, length, key_heads, size]; log_sums: [batch,
// heads, length], the log of each row's sum of exponentials.
int llm_cpu_flash_attention(int64_t batch, int64_t length, int64_t heads, int64_t key_heads,
                            int64_t size, const void *q, const void *k, const void *v,
                            llm_dtype dtype, const llm_mask *mask, void *y, float *log_sums);
int llm_cpu_flash_attention_backward(int64_t batch, int64_t length, int64_t heads,
                                     int64_t key_heads, int64_t size, const void *q, const void *k,
                                     const void *v, llm_dtype dtype, const llm_mask *mask,
                                     const void *y, const float *log_sums, const void *dy, void *dq,
                                     void *dk, void *dv);

// The logits z = x W of a head and their cross entropy, without rows × vocabulary numbers in memory.
// x: [rows, width]. W: [width, vocabulary], or stored as [vocabulary, width] where transposed; float32
// or of x's type, its lines in memory `weight_stride` elements apart. labels: [rows]; one outside
// [0, vocabulary) stands for a token that another process has. Per row: largest = max(z), sum of
// exp(z - largest), target = z[label], or 0 without one.
int llm_cpu_linear_log_sums(int64_t rows, int64_t width, int64_t vocabulary, const void *x,
                            llm_dtype dtype, const void *weight, llm_dtype weight_dtype,
                            int64_t weight_stride, int transposed, const int64_t *labels,
                            float *largest, float *sum, float *target);
// With dz = factors · (exp(z - log_sums) - [column is the label]): dx = dz Wᵀ, and dweight, which
// is laid out as W, becomes xᵀ dz, or that is added to it where accumulate. Either may be NULL.
int llm_cpu_linear_cross_entropy_backward(int64_t rows, int64_t width, int64_t vocabulary,
                                          const void *x, llm_dtype dtype, const void *weight,
                                          llm_dtype weight_dtype, int64_t weight_stride,
                                          int transposed, const int64_t *labels,
                                          const float *log_sums, const float *factors, float *dx,
                                          float *dweight, int accumulate);

// dtable[ids[i]] += dy[i] for count ids, summed in float32, from 0 unless accumulate. dtable: [entries,
// width]; dy: [count, width].
int llm_cpu_embedding_backward(int64_t count, int64_t entries, int64_t width, const int64_t *ids,
                               const void *dy, llm_dtype dtype, void *dtable,
                               llm_dtype table_dtype, int accumulate);

// y [count] = x + other, in float32 and then in x's type. y may be x.
int llm_cpu_add(int64_t count, const void *x, llm_dtype dtype, const void *other,
                llm_dtype other_dtype, void *y);

// The sum of x², the same for any number of threads.
int llm_cpu_sum_of_squares(int64_t count, const void *x, llm_dtype dtype, double *sum);

// AdamW (Loshchilov and Hutter, arXiv:1711.05101) on one flat tensor, in place; the gradient is
// multiplied by `factor` first. `weights` (bfloat16) gets the new master where it is given.
int llm_cpu_adamw(int64_t count, float *master, float *moment1, float *moment2, const void *gradient,
                  llm_dtype gradient_dtype, void *weights, float factor, float learning_rate,
                  float beta1, float beta2, float epsilon, float weight_decay, float correction1,
                  float correction2);

// Processes of one machine that exchange values through memory that they share. `ranks` of them have
// opened one file; this one is number `rank`. Every call is made by all ranks alike, one at a time,
// but messages, which go beside the others: one at a time in each direction between two ranks.
// Whoever waits spins `spins` times before it sleeps. A call fails, with a message that begins with
// "Connection", when `stop` is no longer 0 or when the process of another rank has ended.
typedef struct {
  void *region;
  int64_t ranks, rank, spins;
  int64_t uses;
  const int *stop;
  int file;
} llm_shared;
typedef enum {
  LLM_NUMBER_FLOAT32 = 0,
  LLM_NUMBER_BFLOAT16 = 1,
  LLM_NUMBER_FLOAT64 = 2,
  LLM_NUMBER_INT32 = 3,
  LLM_NUMBER_INT64 = 4
} llm_number;
typedef enum { LLM_SUM = 0, LLM_MAX = 1 } llm_reduction;

// Maps the file, which is empty for the first, and holds a lock in it for as long as the process lives.
int llm_cpu_shared_open(llm_shared *group);
// Unmaps and closes the file.
int llm_cpu_shared_close(llm_shared *group);
int llm_cpu_shared_barrier(llm_shared *group);
// values [count] = the reduction over the ranks, in their order, bfloat16 in float32.
int llm_cpu_shared_all_reduce(llm_shared *group, int64_t count, void *values, llm_number type,
                              llm_reduction reduction);
// whole [ranks, bytes] = all parts [bytes]. The part may lie in its place in the whole.
int llm_cpu_shared_all_gather(llm_shared *group, int64_t bytes, const void *part, void *whole);
// part [count] = this rank's of the reduction of whole [ranks, count], in which it may lie.
int llm_cpu_shared_reduce_scatter(llm_shared *group, int64_t count, const void *whole, void *part,
                                  llm_number type, llm_reduction reduction);
// values [bytes] = those of rank `source`.
int llm_cpu_shared_broadcast(llm_shared *group, int64_t bytes, void *values, int64_t source);
// Messages [bytes] between two ranks, in order; a short one leaves before the other asks for it.
int llm_cpu_shared_send(const llm_shared *group, int64_t bytes, const void *values, int64_t target);
int llm_cpu_shared_receive(const llm_shared *group, int64_t bytes, void *values, int64_t source);

#ifdef __cplusplus
#pragma GCC visibility pop
}
#endif
