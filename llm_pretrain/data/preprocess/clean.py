"""Cleaning of texts before they are tokenized, and which of them are left out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.preprocess.streams import import_extra

HASH_BYTES = 16
TOO_SHORT = "shorter than --min_doc_length"
NOT_SAMPLED = "not sampled"
# Of the table of hashes: the fewest slots, and the largest share of them that is taken.
_FEWEST_SLOTS = 1 << 16
_FULLEST = 0.75


@dataclass(frozen=True)
class CleaningOptions:
    max_repeated_len: int = 100
    """Runs of one character longer than this become a single one; 0 leaves them."""
    min_doc_length: int = 0
    """Documents of fewer characters are left out."""
    sample_share: float = 1.0
    """Share of the documents to keep. Which ones, their hashes decide: the same in every run."""
    segment_words: bool = False
    """Whether the words of Chinese text are found and separated."""
    word_separator: str = " "


class Cleaner:
    """Cleans texts one by one. Raises PreprocessError where jieba is needed and missing."""

    def __init__(self, options: CleaningOptions) -> None:
        self._options = options
        limit = options.max_repeated_len
        self._repeated = re.compile(rf"(.)\1{{{limit},}}") if limit else None
        # Such a run has equal characters at every so many places, which is found much faster.
        self._stride = max(1, limit // 8)
        self._hint = re.compile(rf"(.)\1{{{max(1, (limit + 1) // self._stride) - 1}}}")
        self._segment = _segmenter(options.word_separator) if options.segment_words else None

    def clean(self, text: str) -> tuple[str, bytes] | str:
        """The text to tokenize and the document's hash, or the reason why it is left out."""
        text = text.strip()
        if self._repeated is not None and self._hint.search(text[:: self._stride]):
            text = self._repeated.sub(r"\1", text)
        if len(text) < self._options.min_doc_length:
            return TOO_SHORT
        digest = blake2b(text.encode(), digest_size=HASH_BYTES).digest()
        if int.from_bytes(digest[:8], "little") >= self._options.sample_share * 2**64:
            return NOT_SAMPLED
        return text if self._segment is None else self._segment(text), digest


def _segmenter(separator: str) -> Callable[[str], str]:
    jieba = import_extra("jieba", "--cn_whole_word_segment needs")
    jieba.setLogLevel("WARNING")

    def segment(text: str) -> str:
        return "\n".join(
            separator.join(word for word in jieba.cut(line) if not word.isspace())
            for line in text.splitlines()
        )

    return segment


class SeenHashes:
    """A set of 16-byte hashes, as a table with linear probing.

    It takes 21 to 43 bytes for each document, and half as much again while it grows. One hash in
    2**127 is taken for another, so that two of 10**9 documents are alike with a probability of
    about 10**-20.
    """

    def __init__(self) -> None:
        # An entry of zeros is free; a hash is never all zeros, see `add`.
        self._table = np.zeros((_FEWEST_SLOTS, 2), np.uint64)
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
        for begin in range(0, len(old), _FEWEST_SLOTS):
            part = old[begin : begin + _FEWEST_SLOTS]
            self._insert(part[part.any(axis=1)])
