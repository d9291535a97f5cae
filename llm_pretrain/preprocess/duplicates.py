"""Which documents have been seen before, by their hashes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SMALLEST = 1 << 16
_FULLEST = 0.75


class SeenHashes:
    """A set of 16-byte hashes, as a table with linear probing.

    It takes 21 to 43 bytes for each document, and half as much again while it grows. One hash in
    2**127 is taken for another, so that two of 10**9 documents are alike with a probability of
    about 10**-20.
    """

    def __init__(self) -> None:
        # An entry of zeros is free; a hash is never all zeros, see `add`.
        self._table = np.zeros((_SMALLEST, 2), np.uint64)
        self._count = 0

    def add(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Add hashes of shape [n, 2]; which of them are new, the first of equal ones alone."""
        hashes = hashes | np.array([0, 1], np.uint64)
        pairs = hashes.view([("a", np.uint64), ("b", np.uint64)])[:, 0]
        first = np.sort(np.unique(pairs, return_index=True)[1])
        while self._count + len(first) > _FULLEST * len(self._table):
            self._grow()
        new = np.zeros(len(hashes), np.bool_)
        new[first] = self._insert(hashes[first])
        self._count += int(new.sum())
        return new

    def _insert(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Of hashes that differ from one another, which were not there."""
        new = np.zeros(len(hashes), np.bool_)
        last = np.uint64(len(self._table) - 1)
        slots = hashes[:, 0] & last
        pending = np.arange(len(hashes))
        while len(pending):
            at = slots[pending]
            there = self._table[at]
            free = ~there.any(axis=1)
            # Several may want one free place: the last writer has it, the others go on.
            self._table[at[free]] = hashes[pending[free]]
            here = (self._table[at] == hashes[pending]).all(axis=1)
            new[pending[free & here]] = True
            pending = pending[~here]
            slots[pending] = (slots[pending] + np.uint64(1)) & last
        return new

    def _grow(self) -> None:
        old = self._table
        self._table = np.zeros((2 * len(old), 2), np.uint64)
        for begin in range(0, len(old), _SMALLEST):
            part = old[begin : begin + _SMALLEST]
            self._insert(part[part.any(axis=1)])
