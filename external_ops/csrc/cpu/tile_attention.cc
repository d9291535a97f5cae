#include "tile_attention.h"

#include <atomic>

#include "instructions.h"
#include "scratch.h"
#include "tasks.h"

namespace llm {

#ifdef __x86_64__

Sight::Sight(const Attention &a, int64_t sample, int64_t first)
    : begins{}, ends{}, some{a.length, 0}, every{0, a.length} {
  for (int64_t row = 0; row < std::min(kPanelLines, a.length - first); ++row) {
    const Visible keys = a.visible(sample, first + row);
    begins[row] = static_cast<int32_t>(keys.begin);
    ends[row] = static_cast<int32_t>(keys.end);
    some = {std::min(some.begin, keys.begin), std::max(some.end, keys.end)};
    every = {std::max(every.begin, keys.begin), std::min(every.end, keys.end)};
  }
}

LLM_ON_TILES void put_turned(int64_t queries, int64_t features, const float *sums,
                             const float *factors, void *y, int64_t stride, llm_dtype dtype) {
  for (int64_t strip = 0; strip < 2; ++strip) {
    __m512i halves[2][16];
    for (int half = 0; half < 2; ++half) {
      const float *tile = sums + (2 * half + strip) * kSumsSize;
      for (int row = 0; row < 16; ++row) halves[half][row] = _mm512_load_si512(tile + 16 * row);
      transpose(halves[half]);
    }
    for (int64_t query = 16 * strip; query < std::min<int64_t>(queries, 16 * (strip + 1)); ++query) {
      const __m512 factor = _mm512_set1_ps(factors[query]);
      const __m512 left = _mm512_mul_ps(_mm512_castsi512_ps(halves[0][query % 16]), factor);
      const __m512 right = _mm512_mul_ps(_mm512_castsi512_ps(halves[1][query % 16]), factor);
      if (dtype == LLM_BFLOAT16) {
        _mm512_mask_storeu_epi16(static_cast<uint16_t *>(y) + query * stride, first_of_32(features),
                                 rounded(left, right));
        continue;
      }
      float *row = static_cast<float *>(y) + query * stride;
      _mm512_mask_storeu_ps(row, first(features), left);
      if (features > 16) _mm512_mask_storeu_ps(row + 16, first(features - 16), right);
    }
  }
}

namespace {

// Of a task, and the keys that it takes at once: with so many scores of 32 queries, and their values,
// stay in the first-level cache, and keys and values of a block are read four times from the second.
constexpr int64_t kTaskQueries = 128, kBlockKeys = 128;

// The running softmax of 32 queries.
struct Running {
  alignas(64) float largest[kPanelLines], sum[kPanelLines];
};

// For 16 queries and `tiles` tiles of scores by 16 keys, from `key` on: p, as tiles of b, becomes 2^(score -
// largest), and `running` is brought up to date. Returns by what earlier sums are to be multiplied.
template <int parts, bool has_slope, bool is_partial>
LLM_INLINE_ON_TILES __m512 take_scores(const ScoresOnTiles &scores, int64_t tiles,
                                       const float *products, int64_t key, float *largest,
                                       float *sum, uint16_t *p) {
  // Two panels of 16 keys have tiles of other queries between them.
  const auto tile_of = [products](int64_t tile) { return products + tile * 2 * kSumsSize; };
  const __m512 zero = _mm512_setzero_ps();
  __m512 most[4];
  for (auto &one : most) one = _mm512_set1_ps(-INFINITY);
  for (int64_t tile = 0; tile < tiles; ++tile) {
    for (int64_t row = 0; row < 16; row += 4) {
      for (int64_t i = 0; i < 4; ++i) {
        const int64_t of_key = key + 16 * tile + row + i;
        const float *place = tile_of(tile) + 16 * (row + i);
        const __m512 score = scores.template of<has_slope>(place, of_key, zero);
        most[i] = is_partial ? _mm512_mask_max_ps(most[i], scores.seen(of_key), most[i], score)
                             : _mm512_max_ps(most[i], score);
      }
    }
  }
  const __m512 before = _mm512_load_ps(largest);
  const __m512 shift = _mm512_max_ps(
      before, _mm512_max_ps(_mm512_max_ps(most[0], most[1]), _mm512_max_ps(most[2], most[3])));
  __m512 sums[2] = {zero, zero};
  for (int64_t tile = 0; tile < tiles; ++tile) {
    uint16_t *rows = p + tile / 2 * parts * 2 * kTileSize + tile % 2 * 8 * kTileDepth;
    for (int64_t row = 0; row < 16; row += 2) {
      __m512 pair[2];
      for (int64_t i = 0; i < 2; ++i) {
        const int64_t of_key = key + 16 * tile + row + i;
        const float *place = tile_of(tile) + 16 * (row + i);
        pair[i] = power_of_two<parts>(scores.template of<has_slope>(place, of_key, shift));
        if (is_partial) pair[i] = _mm512_maskz_mov_ps(scores.seen(of_key), pair[i]);
        sums[i] = _mm512_add_ps(sums[i], pair[i]);
      }
      __m512i in_tiles[parts];
      in_parts(pair[0], pair[1], in_tiles);
      for (int part = 0; part < parts; ++part)
        _mm512_store_si512(rows + part * 2 * kTileSize + row / 2 * kTileDepth,
                           interleaved(in_tiles[part]));
    }
  }
  // Where nothing is seen yet both are -inf.
  const __mmask16 grows = _mm512_cmp_ps_mask(before, shift, _CMP_NEQ_UQ);
  const __m512 shrink = _mm512_mask_mov_ps(_mm512_set1_ps(1.0f), grows,
                                           power_of_two<parts>(_mm512_sub_ps(before, shift)));
  const __m512 added = _mm512_add_ps(sums[0], sums[1]);
  _mm512_store_ps(sum, _mm512_fmadd_ps(_mm512_load_ps(sum), shrink, added));
  _mm512_store_ps(largest, shift);
  return shrink;
}

template <int parts>
LLM_ON_TILES void take_block(const Attention &a, float slope, int64_t first, const Sight &sight,
                             int64_t key, int64_t key_panels, const float *products,
                             Running &running, uint16_t *p, float *outputs, int64_t output_panels) {
  const bool is_partial = !sight.all_of(key, key_panels * kPanelLines);
  for (int64_t strip = 0; strip < 2; ++strip) {
    const ScoresOnTiles scores(a, slope, first, sight, strip);
    const auto take =
        slope != 0.0f ? (is_partial ? take_scores<parts, true, true> : take_scores<parts, true, false>)
                      : (is_partial ? take_scores<parts, false, true> : take_scores<parts, false, false>);
    const __m512 shrink =
        take(scores, 2 * key_panels, products + strip * kSumsSize, key,
             running.largest + 16 * strip, running.sum + 16 * strip, p + strip * kTileSize);
    if (_mm512_cmp_ps_mask(shrink, _mm512_set1_ps(1.0f), _CMP_NEQ_UQ) == 0) continue;
    for (int64_t tile = 0; tile < 2 * output_panels; ++tile) {
      float *sums = outputs + (2 * tile + strip) * kSumsSize;
      for (int row = 0; row < 16; ++row)
        _mm512_store_ps(sums + 16 * row, _mm512_mul_ps(_mm512_load_ps(sums + 16 * row), shrink));
    }
  }
}

// Keys, and values by feature, of one head.
struct PackedHead {
  Packed keys, values;

  PackedHead(const Attention &a, uint8_t *place)
      : keys{a.length, a.size, parts_of(a), reinterpret_cast<uint16_t *>(place)},
        values{a.size, a.length, parts_of(a), reinterpret_cast<uint16_t *>(place + keys.bytes())} {}
  size_t bytes() const { return keys.bytes() + values.bytes(); }
};

// Memory of a thread: packed queries, and of 32 of them scores, probabilities and sums of values.
struct Place {
  uint16_t *queries, *p;
  float *products, *outputs;

  explicit Place(const Attention &a) {
    thread_local Scratch scratch;
    const Packed block{kTaskQueries, a.size, parts_of(a), nullptr};
    const auto [first, second, third, fourth] = scratch.take<4>(
        {block.bytes(), parts_of(a) * kBlockKeys * kPanelLines * sizeof(uint16_t),
         kBlockKeys * kPanelLines * sizeof(float),
         panels(kTaskQueries) * panels(a.size) * kPanelSums * sizeof(float)});
    queries = static_cast<uint16_t *>(first);
    p = static_cast<uint16_t *>(second);
    products = static_cast<float *>(third);
    outputs = static_cast<float *>(fourth);
  }
};

// False if a query has no parts.
LLM_ON_TILES bool attend(const Attention &a, int64_t sample, int64_t head, int64_t first,
                         const PackedHead &packed, const void *q, void *y, float *log_sums) {
  const Place place(a);
  const int64_t rows = std::min(kTaskQueries, a.length - first), stride = a.heads * a.size;
  const int64_t start = a.query_offset(sample, head) + first * stride;
  const Packed queries{rows, a.size, parts_of(a), place.queries};
  if (!pack_columns({at(q, start, a.dtype), stride, 1, a.dtype}, queries, 0, 0, panels(rows)))
    return false;
  const auto take = queries.parts == 1 ? take_block<1> : take_block<3>;
  const int64_t features = panels(a.size), depth = steps(a.size);
  std::vector<Sight> sights;
  Running running[kTaskQueries / kPanelLines];
  Visible all{a.length, 0};
  for (int64_t panel = 0; panel < panels(rows); ++panel) {
    sights.emplace_back(a, sample, first + panel * kPanelLines);
    all = {std::min(all.begin, sights[panel].some.begin), std::max(all.end, sights[panel].some.end)};
    std::fill_n(running[panel].largest, kPanelLines, -INFINITY);
    std::fill_n(running[panel].sum, kPanelLines, 0.0f);
  }
  std::fill_n(place.outputs, panels(rows) * features * kPanelSums, 0.0f);
  const TilesInUse tiles;
  for (int64_t block = all.begin / kBlockKeys * kBlockKeys; block < all.end; block += kBlockKeys) {
    const int64_t slice = block / packed.values.slice() * packed.values.slice();
    for (int64_t panel = 0; panel < panels(rows); ++panel) {
      const Sight &sight = sights[panel];
      // Of this block, in whole panels.
      const int64_t key = std::max(block, sight.some.begin / kPanelLines * kPanelLines);
      const int64_t count = panels(std::min(block + kBlockKeys, sight.some.end) - key);
      if (count <= 0) continue;
      for (int64_t i = 0; i < count; ++i) {
        const uint16_t *keys = packed.keys.panel(0, key / kPanelLines + i);
        multiply_panels(queries.parts, depth, keys, queries.panel(0, panel),
                        keys + depth * queries.step_size(), nullptr, place.products + i * kPanelSums);
      }
      float *outputs = place.outputs + panel * features * kPanelSums;
      take(a, a.slope(head), first + panel * kPanelLines, sight, key, count, place.products,
                 running[panel], place.p, outputs, features);
      const int64_t skipped = steps(key - slice) * packed.values.step_size();
      for (int64_t i = 0; i < features; ++i) {
        float *sums = outputs + i * kPanelSums;
        const uint16_t *values = packed.values.panel(slice, i) + skipped;
        multiply_panels(queries.parts, count, values, place.p, values + packed.values.step_size(), sums,
                        sums);
      }
    }
  }
  for (int64_t panel = 0; panel < panels(rows); ++panel) {
    const int64_t top = panel * kPanelLines, height = std::min(kPanelLines, rows - top);
    float factors[kPanelLines];
    for (int64_t row = 0; row < height; ++row) {
      factors[row] = 1.0f / running[panel].sum[row];
      log_sums[(sample * a.heads + head) * a.length + first + top + row] =
          running[panel].largest[row] * kLn2 + std::log(running[panel].sum[row]);
    }
    for (int64_t i = 0; i < features; ++i) {
      put_turned(height, a.size - i * kPanelLines,
                 place.outputs + (panel * features + i) * kPanelSums, factors,
                 at(y, start + top * stride + i * kPanelLines, a.dtype), stride, a.dtype);
    }
  }
  return true;
}

}  // namespace

bool attends_on_tiles(const Attention &a) {
  // A head is one slice along its features.
  const Packed head{a.length, a.size, parts_of(a), nullptr};
  return instructions() == Instructions::kAmx && a.size <= head.slice();
}

bool attend_on_tiles(const Attention &a, const void *q, const void *k, const void *v, void *y,
                     float *log_sums) {
  thread_local Scratch scratch;
  const size_t size = PackedHead(a, nullptr).bytes();
  const auto [memory] = scratch.take<1>({size * a.batch * a.key_heads});
  auto *place = static_cast<uint8_t *>(memory);
  const int64_t stride = a.key_heads * a.size, slice = PackedHead(a, nullptr).values.slice();
  const int64_t slices = (a.length + slice - 1) / slice;
  std::atomic<bool> whole{true};
  in_parallel(a.batch * a.key_heads * slices, 0, [&](int64_t task, int) {
    const int64_t number = task / slices, start = task % slices * slice;
    const PackedHead packed(a, place + number * size);
    const int64_t offset = a.key_offset(number / a.key_heads, number % a.key_heads);
    if (!pack_rows({at(k, offset, a.dtype), stride, 1, a.dtype}, packed.keys, 0, start / kPanelLines,
                   panels(std::min(slice, a.length - start))) ||
        !pack_rows({at(v, offset, a.dtype), 1, stride, a.dtype}, packed.values, start, 0, panels(a.size)))
      whole = false;
  });
  if (!whole) return false;
  const int64_t blocks = (a.length + kTaskQueries - 1) / kTaskQueries;
  in_parallel(a.batch * a.heads * blocks, 0, [&](int64_t task, int) {
    // The last blocks see most keys; they come first, so that no thread ends with one.
    const int64_t block = blocks - 1 - task / (a.batch * a.heads), head = task % a.heads;
    const int64_t sample = task / a.heads % a.batch;
    const int64_t key_head = sample * a.key_heads + head / (a.heads / a.key_heads);
    if (!attend(a, sample, head, block * kTaskQueries, PackedHead(a, place + key_head * size), q, y,
                log_sums))
      whole = false;
  });
  return whole;
}

#else

bool attends_on_tiles(const Attention &) { return false; }

bool attend_on_tiles(const Attention &, const void *, const void *, const void *, void *, float *) {
  return false;
}

#endif

}  // namespace llm
