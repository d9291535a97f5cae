"""Tokens of whole texts by a table of words: each word is tokenized once, then looked up.

Most tokenizers first cut a text into words and tokenize each by itself. Cutting with Python's
`re` and looking words up is several times as fast as doing both in their libraries, which forget
most words at once; and the tokens are put together by NumPy, without a Python object for each.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice

import numpy as np
from numpy.typing import NDArray

# About 50 MB. A table that is full is given up for an empty one: what is frequent comes back.
_MOST_WORDS = 1 << 18
_MOST_TOKENS = 1 << 21
# Bytes to a character in UTF-8; in Chinese and Japanese, in Thai and Lao they are nearly 3. Of the
# scripts that have spaces, none but Korean has more than 2.
_MOST_BYTES = 2
_NEVER = re.compile(r"(?!)")
# Ways to encode a text.
_LIBRARY, _TABLE, _WIDE = range(3)


@dataclass(frozen=True)
class Ragged:
    """Token ids of several texts."""

    tokens: NDArray[np.uint32]
    """All ids, one text after another."""
    sizes: NDArray[np.int64]
    """Ids in each text."""

    @classmethod
    def of(cls, ids: Sequence[Sequence[int] | NDArray[np.uint32]]) -> Ragged:
        sizes = np.fromiter(map(len, ids), np.int64, len(ids))
        tokens = np.fromiter(chain.from_iterable(ids), np.uint32, int(sizes.sum()))
        return cls(tokens, sizes)

    @classmethod
    def join(
        cls, tokens: Sequence[NDArray[np.uint32]], sizes: Sequence[NDArray[np.int64]]
    ) -> Ragged:
        return cls(
            np.concatenate([np.zeros(0, np.uint32), *tokens]),
            np.concatenate([np.zeros(0, np.int64), *sizes]),
        )


class WordTable:
    """Texts to token ids, where a text's ids are those of its words, one after another."""

    def __init__(
        self,
        split: Callable[[str], list[str]],
        encode: Callable[[list[str]], Ragged],
    ) -> None:
        self.split = split
        self._encode = encode
        self._clear()

    def encode(self, texts: Sequence[str]) -> Ragged:
        words = [self.split(text) for text in texts]
        of_words = self.encode_words(list(chain.from_iterable(words)))
        ends = np.concatenate(([0], np.cumsum(of_words.sizes)))
        text_ends = ends[np.cumsum([len(some) for some in words], dtype=np.int64)]
        return Ragged(of_words.tokens, np.diff(text_ends, prepend=0))

    def encode_words(self, words: list[str]) -> Ragged:
        """The ids of each word."""
        numbers = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
        self._learn()
        sizes = self._sizes[numbers]
        # Token k of a word at position p of the output is at its start in the table plus k.
        shift = np.repeat(self._starts[numbers] - (np.cumsum(sizes) - sizes), sizes)
        tokens = self._tokens[np.arange(len(shift)) + shift]
        if len(self._numbers) > _MOST_WORDS or len(self._tokens) > _MOST_TOKENS:
            self._clear()
        return Ragged(tokens, sizes)

    def _clear(self) -> None:
        # An unknown word gets the next number by being asked for.
        self._numbers: defaultdict[str, int] = defaultdict(count().__next__)
        self._tokens = np.zeros(0, np.uint32)
        self._sizes = np.zeros(0, np.int64)
        self._starts = np.zeros(0, np.int64)

    def _learn(self) -> None:
        new = self._encode(list(islice(self._numbers, len(self._sizes), None)))
        self._tokens = np.concatenate([self._tokens, new.tokens])
        self._sizes = np.concatenate([self._sizes, new.sizes])
        self._starts = np.cumsum(self._sizes) - self._sizes


def encode_by_table(
    texts: Sequence[str],
    table: WordTable | None,
    library: Callable[[Sequence[str]], Sequence[Sequence[int]]],
    exceptions: re.Pattern[str] = _NEVER,
    wide: Callable[[Sequence[str]], Ragged] | None = None,
) -> Ragged:
    """The ids of texts by a table, if there is one; `library` encodes those with `exceptions`.

    Texts in scripts without spaces, whose words are whole clauses and never come again, are encoded
    by `wide`, or else by the library, too.
    """
    if table is None:
        return Ragged.of(library(texts))

    def by_library(some: Sequence[str]) -> Ragged:
        return Ragged.of(library(some))

    ways = {_LIBRARY: by_library, _TABLE: table.encode, _WIDE: wide or by_library}
    way = np.array([_way(text, exceptions) for text in texts], np.int64)
    ids = [np.zeros(0, np.uint32)] * len(texts)
    for kind in np.unique(way).tolist():
        members = np.flatnonzero(way == kind)
        encoded = ways[kind]([texts[member] for member in members])
        parts = np.split(encoded.tokens, np.cumsum(encoded.sizes)[:-1])
        for member, part in zip(members, parts, strict=True):
            ids[member] = part
    return Ragged.join(ids, [np.fromiter(map(len, ids), np.int64, len(ids))])


def _way(text: str, exceptions: re.Pattern[str]) -> int:
    if exceptions.search(text):
        return _LIBRARY
    return _WIDE if len(text.encode()) > _MOST_BYTES * len(text) else _TABLE
