// What a query of one head of one sample sees, and which tiles hold any of it.
#pragma once
#include "llm_ops.h"

namespace llm_ops {

struct Rules {
  int64_t length;
  const int64_t *prefix_ends;  // [length], or NULL
  const int64_t *starts;       // [length], or NULL
  float slope;

  __device__ Rules(const llm_ops_mask &mask, int64_t length, int64_t sample, int64_t head)
      : length(length),
        prefix_ends(mask.prefix_ends ? mask.prefix_ends + sample * length : nullptr),
        starts(mask.document_starts ? mask.document_starts + sample * length : nullptr),
        slope(mask.slopes ? mask.slopes[head] : 0) {}

  __device__ bool sees(int64_t query, int64_t key) const {
    if (query >= length || key >= length) { return false; }
    return (key <= query || is_in_prefix(query, key)) && (!starts || key >= starts[query]);
  }

  // Whether each of queries [first_query, end_query) sees all of keys [first_key, end_key): then
  // none of them has to be asked for.
  __device__ bool sees_all(int64_t first_query, int64_t end_query, int64_t first_key,
                           int64_t end_key) const {
    return end_query <= length && end_key <= length &&
           (end_key <= first_query + 1 || is_in_prefix(first_query, end_key - 1)) &&
           (!starts || starts[end_query - 1] <= first_key);
  }

  // Whether the query would see the key if it stood behind it.
  __device__ bool is_in_prefix(int64_t query, int64_t key) const {
    return prefix_ends && key < prefix_ends[query];
  }

  // What joins the score of a visible key.
  __device__ float bias(int64_t query, int64_t key) const {
    return slope * static_cast<int>(key - query);
  }

  // Of queries [first, end): the keys that any of them may see are [first_key, end_key).
  __device__ int64_t first_key(int64_t first) const { return starts ? starts[first] : 0; }
  __device__ int64_t end_key(int64_t end) const {
    const int64_t last = (end < length ? end : length) - 1;
    const int64_t behind = prefix_ends && prefix_ends[last] > last ? prefix_ends[last] : last + 1;
    return behind < length ? behind : length;
  }

  // Of keys from `first` on: no query before this one sees any of them.
  __device__ int64_t first_query(int64_t first) const {
    if (!prefix_ends) { return first; }
    int64_t low = 0, high = first;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (is_in_prefix(middle, first)) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  // Whether no query from `query` on sees a key before `end`, since their document begins later.
  __device__ bool is_past(int64_t query, int64_t end) const {
    return starts && starts[query] >= end;
  }
};

}  // namespace llm_ops
