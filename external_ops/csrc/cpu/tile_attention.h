// Attention on matrix tiles, in bfloat16.
//
// Scores are held transposed, keys by queries: 16 queries are the lanes of a register, so that a softmax
// needs no sums across lanes, and probabilities come out in the order in which tiles read them.
#pragma once
#include "attention_rows.h"
#include "tiles.h"

namespace llm {

// Whether this processor and these shapes have it.
bool attends_on_tiles(const Attention &a);

// As llm_cpu_flash_attention and its gradients.
void attend_on_tiles(const Attention &a, const void *q, const void *k, const void *v, void *y,
                     float *log_sums);
void attend_backward_on_tiles(const Attention &a, const void *q, const void *k, const void *v,
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

// 2^t to 3e-6 of its size for t up to 127, and 2^-126 for what is smaller: subnormal numbers would make
// what follows 50 times slower.
LLM_INLINE_ON_TILES __m512 power_of_two(__m512 t) {
  t = _mm512_max_ps(_mm512_set1_ps(-126.0f), t);  // in this order a NaN stays one
  constexpr int kDown = 1;
  const __m512 fraction = _mm512_reduce_ps(t, kDown);
  // The polynomial with the least largest relative error in [0, 1) that is 1 at 0.
  __m512 x = _mm512_set1_ps(0.0134266894f);
  x = _mm512_fmadd_ps(x, fraction, _mm512_set1_ps(0.0522424653f));
  x = _mm512_fmadd_ps(x, fraction, _mm512_set1_ps(0.241280213f));
  x = _mm512_fmadd_ps(x, fraction, _mm512_set1_ps(0.693044841f));
  x = _mm512_fmadd_ps(x, fraction, _mm512_set1_ps(1.0f));
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

// y [queries, features], rounded, from sums that are transposed, each query's times its factor.
void put_turned(int64_t queries, int64_t features, const float *sums, const float *factors,
                uint16_t *y, int64_t stride);

#endif

}  // namespace llm
