// Attention on matrix tiles: of bfloat16, or of float32 in three parts.
//
// Scores are held transposed, keys by queries: 16 queries are the lanes of a register, so that a softmax
// needs no sums across lanes, and probabilities come out in the order in which tiles read them.
#pragma once
#include "attention_rows.h"
#include "tiles.h"

namespace llm {

// Whether this processor and these shapes have it.
bool attends_on_tiles(const Attention &a);

// As llm_cpu_flash_attention and its gradients. False where a float32 has no parts: then results mean nothing.
bool attend_on_tiles(const Attention &a, const void *q, const void *k, const void *v, void *y,
                     float *log_sums);
bool attend_backward_on_tiles(const Attention &a, const void *q, const void *k, const void *v,
                              const void *y, const float *log_sums, const void *dy, void *dq,
                              void *dk, void *dv);

#ifdef __x86_64__

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

// What 32 queries see of keys: each its own range; all of `some`, and every one all of `every`.
struct Sight {
  alignas(64) int32_t begins[kPanelLines], ends[kPanelLines];
  Visible some, every;

  Sight(const Attention &a, int64_t sample, int64_t first);

  // Of `count` keys from `start` on.
  bool some_of(int64_t start, int64_t count) const {
    return some.begin < start + count && start < some.end;
  }
  bool all_of(int64_t start, int64_t count) const {
    return every.begin <= start && start + count <= every.end;
  }
};

inline int64_t parts_of(const Attention &a) { return a.dtype == LLM_FLOAT32 ? 3 : 1; }

// 2^t for t up to 127, to 3e-6 of its size, or to 1e-7 for numbers in three parts, and 2^-126 for what is
// smaller: subnormal numbers would make what follows 50 times slower.
template <int parts>
LLM_INLINE_ON_TILES __m512 power_of_two(__m512 t) {
  t = _mm512_max_ps(_mm512_set1_ps(-126.0f), t);  // in this order a NaN stays one
  constexpr int kDown = 1;
  const __m512 fraction = _mm512_reduce_ps(t, kDown);
  // The polynomials with the least largest relative error in [0, 1) that are 1 at 0.
  constexpr float kFourth[] = {0.0134266894f, 0.0522424653f, 0.241280213f, 0.693044841f, 1.0f};
  constexpr float kFifth[] = {0.00186713075f, 0.00901702885f, 0.0557999127f,
                              0.240164444f,   0.693151295f,   1.0f};
  __m512 x = _mm512_set1_ps(parts == 1 ? kFourth[0] : kFifth[0]);
  for (int i = 1; i < (parts == 1 ? 5 : 6); ++i)
    x = _mm512_fmadd_ps(x, fraction, _mm512_set1_ps(parts == 1 ? kFourth[i] : kFifth[i]));
  return _mm512_scalef_ps(x, t);
}

// How products of 16 queries, from `first` on, by a key become scores: in units of ln 2.
struct ScoresOnTiles {
  __m512 scale, slope;
  __m512i queries, begins, ends;

  LLM_ON_TILES __attribute__((always_inline)) ScoresOnTiles(const Attention &a, float slope_,
                                                            int64_t first, const Sight &sight,
                                                            int64_t strip)
      : scale(_mm512_set1_ps(a.scale * kLog2E)), slope(_mm512_set1_ps(slope_ * kLog2E)),
        queries(_mm512_add_epi32(_mm512_set1_epi32(static_cast<int32_t>(first + 16 * strip)),
                                 _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0))),
        begins(_mm512_load_si512(sight.begins + 16 * strip)),
        ends(_mm512_load_si512(sight.ends + 16 * strip)) {}

  // The product's score less `shift`.
  template <bool has_slope>
  LLM_ON_TILES __attribute__((always_inline)) __m512 of(const float *products, int64_t key,
                                                        __m512 shift) const {
    const __m512 score = _mm512_fmsub_ps(_mm512_load_ps(products), scale, shift);
    if (!has_slope) return score;
    const __m512i distance = _mm512_sub_epi32(_mm512_set1_epi32(static_cast<int32_t>(key)), queries);
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(distance), slope, score);
  }

  LLM_ON_TILES __attribute__((always_inline)) __mmask16 seen(int64_t key) const {
    const __m512i here = _mm512_set1_epi32(static_cast<int32_t>(key));
    return _mm512_cmple_epi32_mask(begins, here) & _mm512_cmplt_epi32_mask(here, ends);
  }
};

// y [queries, features] from sums that are transposed, each query's times its factor.
void put_turned(int64_t queries, int64_t features, const float *sums, const float *factors, void *y,
                int64_t stride, llm_dtype dtype);

#endif

}  // namespace llm
