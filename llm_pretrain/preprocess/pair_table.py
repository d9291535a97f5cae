"""The merges of pairs of tokens, looked up for many pairs at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_ID_BITS = 32
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
# Slots to a pair: few pairs share one.
_ROOM = 8
_NO_PAIR = np.iinfo(np.int64).max


class PairTable:
    """A hash table in arrays: `merges` gives the rank and the merged token of pairs of tokens.

    Pairs are in the order of their slots. A slot has where its pairs begin, so that a pair is
    found in as many steps as there are pairs in the fullest slot.
    """

    def __init__(self, merges: Mapping[tuple[int, int], tuple[int, int]]) -> None:
        lefts, rights = np.array(list(merges), np.int64).reshape(-1, 2).T
        pairs = lefts << _ID_BITS | rights
        bits = (_ROOM * max(len(pairs), 1)).bit_length()
        self._shift = np.uint64(64 - bits)
        slots = self._slots(pairs)
        order = np.argsort(slots, kind="stable")
        sizes = np.bincount(slots, minlength=1 << bits)
        self._begins = (np.cumsum(sizes) - sizes).astype(np.int32)
        self._steps = int(sizes.max())
        # Behind the last slot are pairs that no two tokens are.
        self._pairs = np.concatenate([pairs[order], np.full(self._steps + 1, _NO_PAIR)])
        self._values = np.array(list(merges.values()), np.int64).reshape(-1, 2)[order]

    def find(
        self, left: NDArray[np.int64], right: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Which of the pairs can be merged, with what rank and into which token."""
        pairs = left << _ID_BITS | right
        at = self._begins[self._slots(pairs)]
        missed = np.arange(len(pairs))
        for _ in range(self._steps - 1):
            missed = missed[self._pairs[at[missed]] != pairs[missed]]
            at[missed] += 1
        found = np.flatnonzero(self._pairs[at] == pairs)
        ranks, tokens = self._values[at[found]].T
        return found, ranks, tokens

    def _slots(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        return (pairs.view(np.uint64) * _FACTOR >> self._shift).view(np.int64)
