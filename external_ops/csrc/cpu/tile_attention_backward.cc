#include <atomic>

#include "scratch.h"
#include "tasks.h"
#include "tile_attention.h"

namespace llm {

#ifdef __x86_64__
namespace {

// Scores are computed for a slice of keys and so many queries, 32 by 32, before they are multiplied by keys.
constexpr int64_t kBlockQueries = 128;

// Per query: rowsum(dy · y), and the log of the sum of exponentials in units of ln 2.
struct alignas(64) Known {
  float corrections[kPanelLines], log_sums[kPanelLines];
};

// 16 numbers as float32, zero from `count` on.
LLM_INLINE_ON_TILES __m512 wide(const void *x, int64_t count, llm_dtype dtype) {
  if (dtype == LLM_FLOAT32) return _mm512_maskz_loadu_ps(first(count), x);
  const __m256i halves = _mm256_maskz_loadu_epi16(first(count), x);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

LLM_INLINE_ON_TILES float inner_product_of_rows(int64_t count, const void *x, const void *y,
                                                llm_dtype dtype) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < count; i += 16) {
    sum = _mm512_fmadd_ps(wide(at(x, i, dtype), count - i, dtype), wide(at(y, i, dtype), count - i, dtype),
                          sum);
  }
  return _mm512_reduce_add_ps(sum);
}

// From the products of 32 keys, from `key` on, and 32 queries: probabilities p, and the gradients of
// scores ds but for the scale, as tiles of a with a row for each key, and ds as tiles of b, too. False if
// some ds has no parts.
template <int parts, bool has_slope, bool is_partial>
LLM_INLINE_ON_TILES bool take_scores(const ScoresOnTiles (&scores)[2], const Known &known,
                                     const float *products, const float *dp, int64_t key,
                                     uint16_t *p_rows, uint16_t *ds_rows, uint16_t *ds_columns) {
  const __m512i lower =
      _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5,
                       36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i upper = _mm512_add_epi16(lower, _mm512_set1_epi16(16));
  bool whole = true;
  for (int64_t row = 0; row < kPanelLines; row += 2) {
    __m512i pair[2][parts];
    for (int64_t i = 0; i < 2; ++i) {
      const int64_t line = row + i;
      __m512 p[2], ds[2];
      for (int64_t strip = 0; strip < 2; ++strip) {
        const int64_t place = (line / 16 * 2 + strip) * kSumsSize + line % 16 * 16;
        p[strip] = power_of_two<parts>(scores[strip].template of<has_slope>(
            products + place, key + line, _mm512_load_ps(known.log_sums + 16 * strip)));
        if (is_partial) p[strip] = _mm512_maskz_mov_ps(scores[strip].seen(key + line), p[strip]);
        const __m512 correction = _mm512_load_ps(known.corrections + 16 * strip);
        ds[strip] = _mm512_mul_ps(p[strip], _mm512_sub_ps(_mm512_load_ps(dp + place), correction));
        if (is_partial) ds[strip] = _mm512_maskz_mov_ps(scores[strip].seen(key + line), ds[strip]);
        if (parts > 1) whole &= !is_too_large(ds[strip]) && !is_too_large(p[strip]);
      }
      __m512i of_p[parts];
      in_parts(p[0], p[1], of_p);
      in_parts(ds[0], ds[1], pair[i]);
      for (int part = 0; part < parts; ++part) {
        const int64_t place = part * 2 * kTileSize + line * kTileDepth;
        _mm512_store_si512(p_rows + place, of_p[part]);
        _mm512_store_si512(ds_rows + place, pair[i][part]);
      }
    }
    for (int part = 0; part < parts; ++part) {
      uint16_t *columns = ds_columns + part * 2 * kTileSize + row / 2 * kTileDepth;
      _mm512_store_si512(columns, _mm512_permutex2var_epi16(pair[0][part], lower, pair[1][part]));
      _mm512_store_si512(columns + kTileSize,
                         _mm512_permutex2var_epi16(pair[0][part], upper, pair[1][part]));
    }
  }
  return whole;
}

template <int parts>
LLM_ON_TILES bool take_panel(const Attention &a, float slope, int64_t first, const Sight &sight,
                             const Known &known, const float *products, const float *dp,
                             int64_t key, uint16_t *p_rows, uint16_t *ds_rows,
                             uint16_t *ds_columns) {
  const bool is_partial = !sight.all_of(key, kPanelLines);
  const ScoresOnTiles scores[2] = {{a, slope, first, sight, 0}, {a, slope, first, sight, 1}};
  const auto take =
      slope != 0.0f ? (is_partial ? take_scores<parts, true, true> : take_scores<parts, true, false>)
                    : (is_partial ? take_scores<parts, false, true> : take_scores<parts, false, false>);
  return take(scores, known, products, dp, key, p_rows, ds_rows, ds_columns);
}

// Memory of a thread.
struct Place {
  Packed keys, values, keys_by_feature;                  // tiles of a
  Packed queries, gradients;                             // of b, along features
  Packed queries_by_feature, gradients_by_feature;       // of b, along queries
  float *dq, *dk, *dv;                                   // panels, dq transposed
  float *products, *dp;                                  // of 32 keys and 32 queries
  uint16_t *p_rows, *ds_rows, *ds_columns;

  explicit Place(const Attention &a)
      : keys{a.length, a.size, parts_of(a), nullptr}, values(keys),
        keys_by_feature{a.size, a.length, parts_of(a), nullptr},
        queries(keys), gradients(keys), queries_by_feature(keys_by_feature),
        gradients_by_feature(keys_by_feature) {
    thread_local Scratch scratch;
    const size_t sums = panels(a.length) * panels(a.size) * kPanelSums * sizeof(float);
    const size_t rows = keys.parts * kBlockQueries * kPanelLines * sizeof(uint16_t);
    const size_t panel = kPanelSums * sizeof(float);
    const auto places = scratch.take<15>(
        {keys.bytes(), keys.bytes(), keys_by_feature.bytes(), keys.bytes(), keys.bytes(),
         keys_by_feature.bytes(), keys_by_feature.bytes(), sums, sums, sums, panel, panel, rows, rows,
         keys.parts * kBlockQueries * keys.slice() * sizeof(uint16_t)});
    Packed *packed[] = {&keys, &values, &keys_by_feature, &queries, &gradients, &queries_by_feature,
                        &gradients_by_feature};
    for (int i = 0; i < 7; ++i) packed[i]->tiles = static_cast<uint16_t *>(places[i]);
    float **floats[] = {&dq, &dk, &dv, &products, &dp};
    for (int i = 0; i < 5; ++i) *floats[i] = static_cast<float *>(places[7 + i]);
    p_rows = static_cast<uint16_t *>(places[12]);
    ds_rows = static_cast<uint16_t *>(places[13]);
    ds_columns = static_cast<uint16_t *>(places[14]);
  }
};

// One head's rows, along features and along positions. False if some number has no parts.
bool pack_both(const Attention &a, const void *x, int64_t stride, bool are_rows, const Packed &along_features,
               const Packed &along_positions) {
  const auto pack = are_rows ? pack_rows : pack_columns;
  if (!pack({x, stride, 1, a.dtype}, along_features, 0, 0, panels(a.length))) return false;
  for (int64_t start = 0; start < a.length; start += along_positions.slice())
    pack({x, 1, stride, a.dtype}, along_positions, start, 0, panels(a.size));
  return true;
}

// Adds to the gradients of keys from `block` on, and of queries from `first` on. False as above.
bool attend_block(const Attention &a, const Place &place, float slope, int64_t block, int64_t first,
                  const Sight *sights, const Known *known) {
  const int64_t features = panels(a.size), depth = steps(a.size);
  const int64_t parts = place.keys.parts, step = place.keys.step_size();
  const int64_t most_panels = place.keys.slice() / kPanelLines;
  const int64_t key_panels = std::min(most_panels, panels(a.length - block));
  const auto take = parts == 1 ? take_panel<1> : take_panel<3>;
  bool whole = true;
  const int64_t query_panels = panels(std::min(kBlockQueries, a.length - first));
  const int64_t slice = first / place.queries_by_feature.slice() * place.queries_by_feature.slice();
  // Of each 32 queries the panels of keys that they see: from the first to the last.
  int64_t first_seen[kBlockQueries / kPanelLines], last_seen[kBlockQueries / kPanelLines];
  std::fill_n(first_seen, query_panels, key_panels);
  std::fill_n(last_seen, query_panels, -1);
  for (int64_t i = 0; i < key_panels; ++i) {
    const int64_t key = block + i * kPanelLines, key_panel = key / kPanelLines;
    int64_t begin = query_panels, end = 0;
    for (int64_t j = 0; j < query_panels; ++j) {
      if (!sights[j].some_of(key, kPanelLines)) continue;
      begin = std::min(begin, j);
      end = j + 1;
      first_seen[j] = std::min(first_seen[j], i);
      last_seen[j] = i;
    }
    for (int64_t j = begin; j < end; ++j) {
      // Between those that see these keys there may be some that don't: all that follows is 0 there.
      const int64_t query_panel = first / kPanelLines + j;
      const uint16_t *queries = place.queries.panel(0, query_panel);
      const uint16_t *gradients = place.gradients.panel(0, query_panel);
      multiply_panels(parts, depth, place.keys.panel(0, key_panel), queries, gradients, nullptr,
                      place.products);
      multiply_panels(parts, depth, place.values.panel(0, key_panel), gradients, queries + depth * step,
                      nullptr, place.dp);
      whole &= take(a, slope, first + j * kPanelLines, sights[j], known[j], place.products, place.dp, key,
                    place.p_rows + j * step, place.ds_rows + j * step,
                    place.ds_columns + (j * most_panels + i) * step);
    }
    if (begin >= end) continue;
    const int64_t skipped = (steps(first - slice) + begin) * step;
    for (int64_t feature = 0; feature < features; ++feature) {
      const int64_t sums = (key_panel * features + feature) * kPanelSums;
      const uint16_t *gradients = place.gradients_by_feature.panel(slice, feature) + skipped;
      const uint16_t *queries = place.queries_by_feature.panel(slice, feature) + skipped;
      multiply_panels(parts, end - begin, place.p_rows + begin * step, gradients, queries,
                      place.dv + sums, place.dv + sums);
      multiply_panels(parts, end - begin, place.ds_rows + begin * step, queries, gradients,
                      place.dk + sums, place.dk + sums);
    }
  }
  for (int64_t j = 0; j < query_panels; ++j) {
    if (last_seen[j] < first_seen[j]) continue;
    for (int64_t feature = 0; feature < features; ++feature) {
      float *sums = place.dq + ((first / kPanelLines + j) * features + feature) * kPanelSums;
      const uint16_t *keys = place.keys_by_feature.panel(block, feature) + first_seen[j] * step;
      multiply_panels(parts, last_seen[j] + 1 - first_seen[j], keys,
                      place.ds_columns + (j * most_panels + first_seen[j]) * step, keys + step, sums, sums);
    }
  }
  return whole;
}

LLM_ON_TILES void know(const Attention &a, const void *y, const void *dy, int64_t start,
                       const float *log_sums, std::vector<Known> &known) {
  for (int64_t query = 0; query < a.length; ++query) {
    const int64_t row = start + query * a.heads * a.size;
    Known &of_panel = known[query / kPanelLines];
    of_panel.corrections[query % kPanelLines] =
        inner_product_of_rows(a.size, at(y, row, a.dtype), at(dy, row, a.dtype), a.dtype);
    of_panel.log_sums[query % kPanelLines] = log_sums[query] * kLog2E;
  }
}

// With P the probabilities: dV = Pᵀ dY; dS = P (dY Vᵀ - rowsum(dY · Y)); dQ = dS K; dK = dSᵀ Q. False as
// above.
bool attend_backward(const Attention &a, int64_t sample, int64_t key_head, const void *q,
                     const void *k, const void *v, const void *y, const float *log_sums,
                     const void *dy, void *dq, void *dk, void *dv) {
  const Place place(a);
  const int64_t stride = a.heads * a.size, key_stride = a.key_heads * a.size;
  const int64_t group = a.heads / a.key_heads, key_start = a.key_offset(sample, key_head);
  const int64_t features = panels(a.size), sums = panels(a.length) * features * kPanelSums;
  if (!pack_both(a, at(k, key_start, a.dtype), key_stride, true, place.keys, place.keys_by_feature) ||
      !pack_rows({at(v, key_start, a.dtype), key_stride, 1, a.dtype}, place.values, 0, 0,
                 panels(a.length)))
    return false;
  std::fill_n(place.dk, sums, 0.0f);
  std::fill_n(place.dv, sums, 0.0f);
  std::vector<Sight> sights;
  for (int64_t first = 0; first < a.length; first += kPanelLines) sights.emplace_back(a, sample, first);
  std::vector<Known> known(sights.size());
  float factors[kPanelLines];
  std::fill_n(factors, kPanelLines, a.scale);
  for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
    const int64_t start = a.query_offset(sample, head);
    if (!pack_both(a, at(q, start, a.dtype), stride, false, place.queries, place.queries_by_feature) ||
        !pack_both(a, at(dy, start, a.dtype), stride, false, place.gradients, place.gradients_by_feature))
      return false;
    know(a, y, dy, start, log_sums + (sample * a.heads + head) * a.length, known);
    std::fill_n(place.dq, sums, 0.0f);
    const TilesInUse tiles;
    for (int64_t block = 0; block < a.length; block += place.keys.slice()) {
      for (int64_t first = 0; first < a.length; first += kBlockQueries) {
        const int64_t panel = first / kPanelLines;
        if (!attend_block(a, place, a.slope(head), block, first, sights.data() + panel,
                          known.data() + panel))
          return false;
      }
    }
    for (int64_t panel = 0; panel < panels(a.length); ++panel) {
      const int64_t top = panel * kPanelLines;
      for (int64_t feature = 0; feature < features; ++feature) {
        put_turned(std::min(kPanelLines, a.length - top), a.size - feature * kPanelLines,
                   place.dq + (panel * features + feature) * kPanelSums, factors,
                   at(dq, start + top * stride + feature * kPanelLines, a.dtype), stride, a.dtype);
      }
    }
  }
  for (int64_t i = 0; i < sums; ++i) place.dk[i] *= a.scale;
  for (int64_t panel = 0; panel < panels(a.length); ++panel) {
    const int64_t top = panel * kPanelLines, height = std::min(kPanelLines, a.length - top);
    for (int64_t feature = 0; feature < features; ++feature) {
      const int64_t from = (panel * features + feature) * kPanelSums;
      const int64_t target = key_start + top * key_stride + feature * kPanelLines;
      const int64_t width = std::min(kPanelLines, a.size - feature * kPanelLines);
      put_sums(height, width, place.dk + from, nullptr, at(dk, target, a.dtype), key_stride, a.dtype,
               false);
      put_sums(height, width, place.dv + from, nullptr, at(dv, target, a.dtype), key_stride, a.dtype,
               false);
    }
  }
  return true;
}

}  // namespace

bool attend_backward_on_tiles(const Attention &a, const void *q, const void *k, const void *v,
                              const void *y, const float *log_sums, const void *dy, void *dq,
                              void *dk, void *dv) {
  std::atomic<bool> whole{true};
  in_parallel(a.batch * a.key_heads, 0, [&](int64_t task, int) {
    if (!attend_backward(a, task / a.key_heads, task % a.key_heads, q, k, v, y, log_sums, dy, dq, dk, dv))
      whole = false;
  });
  return whole;
}

#else

bool attend_backward_on_tiles(const Attention &, const void *, const void *, const void *, const void *,
                              const float *, const void *, void *, void *, void *) {
  return false;
}

#endif

}  // namespace llm
