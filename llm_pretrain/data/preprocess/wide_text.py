"""Tokens of texts in scripts without spaces, by NumPy.

Their words are whole clauses, which never come again, so that a table of words is of no use. But
they can be cut between most characters (see `wide_borders`), and what is between two cuts is a few
characters, whose merges are done here, all such parts of many texts at once.

That is exact although byte-level BPE begins at bytes. Where no token has a part of a character
beside another one, every merge is either within a character or of whole ones. If no merge comes
before those that make its parts, merges are done in the order of their ranks, and a merge of whole
characters finds them complete. What isn't so is left to the library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.preprocess.wide_borders import BASIC, MIXED, NEVER, Borders, Merges
from llm_pretrain.data.preprocess.word_split import bytes_of
from llm_pretrain.data.preprocess.words import Ragged, WordTable

# A longer part, such as a line of dashes, is left to the library: merges here are one at a time.
_MOST_CHARACTERS = 16
_CHARACTER = re.compile(rb"[\xe0-\xef][\x80-\xbf]{2}")
_WIDE = re.compile(rb"([\xe0-\xef][\x80-\xbf]{2})+")
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


class WideText:
    """Encodes texts as the library does.

    Args:
        table: cuts texts into words, and encodes what isn't encoded here by the library.
        tokens: the vocabulary as UTF-8.
        merges: the rank of each merge.
        whole_at: of each character that becomes a token, the rank of the merge that makes it.
    """

    def __init__(
        self,
        table: WordTable,
        tokens: Mapping[bytes, int],
        merges: Merges,
        whole_at: Mapping[bytes, int],
    ) -> None:
        self._table = table
        ranks = np.full(BASIC, NEVER)
        self._characters = np.full(BASIC, -1)
        for character, rank in whole_at.items():
            ranks[ord(character.decode())] = rank
            self._characters[ord(character.decode())] = tokens[character]
        self._borders = Borders(merges, ranks)
        wide = {token: number for token, number in tokens.items() if _WIDE.fullmatch(token)}
        self._pairs = PairTable(
            {
                (wide[left], wide[right]): (rank, tokens[left + right])
                for (left, right), rank in merges.items()
                if left in wide and right in wide
            }
        )

    def encode(self, texts: Sequence[str]) -> Ragged:
        words = [self._table.split(text) for text in texts]
        whole = "".join(chain.from_iterable(words))
        if not whole:
            return Ragged.of([[]] * len(texts))
        codes = np.frombuffer(whole.encode("utf-32-le"), np.uint32).astype(np.int64)
        codes[codes >= BASIC] = 0
        word_ends = np.cumsum(np.fromiter(map(len, chain.from_iterable(words)), np.int64))
        text_ends = np.concatenate([[0], word_ends])[np.cumsum([len(some) for some in words])]
        borders = self._borders.between(codes, word_ends)
        starts = np.concatenate([[0], np.flatnonzero(borders == 0) + 1])
        lengths = np.diff(starts, append=len(codes))
        ids = self._characters[codes]
        unknown = ids < 0
        unknown[:-1] |= borders == MIXED
        plain = lengths <= _MOST_CHARACTERS
        plain[np.searchsorted(starts, np.flatnonzero(unknown), side="right") - 1] = False

        kept, sizes = self._merge(ids, lengths, plain)
        others = [
            whole[start : start + length]
            for start, length in zip(starts[~plain], lengths[~plain], strict=True)
        ]
        by_table = self._table.encode_words(others)
        sizes[~plain] = by_table.sizes
        of_plain = np.repeat(plain, sizes)
        tokens = np.empty(len(of_plain), np.uint32)
        tokens[of_plain] = ids[kept]
        tokens[~of_plain] = by_table.tokens

        ends = np.concatenate([[0], np.cumsum(sizes)])[np.searchsorted(starts, text_ends)]
        return Ragged(tokens, np.diff(ends, prepend=0))

    def _merge(
        self, ids: NDArray[np.int64], lengths: NDArray[np.int64], plain: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Merge the characters of all plain parts in `ids`; where tokens remain, and how many.

        BPE as it is defined: again and again the pair of the lowest rank, the first of equals.
        """
        kept = np.repeat(plain, lengths)
        sizes = lengths.copy()
        of_several = plain & (lengths > 1)
        at = np.flatnonzero(np.repeat(of_several, lengths))
        numbers = np.flatnonzero(of_several)
        part = np.repeat(numbers, lengths[numbers])
        tokens = ids[at]
        while True:
            left = np.flatnonzero(part[:-1] == part[1:])
            found, ranks, merged = self._pairs.find(tokens[left], tokens[left + 1])
            if not len(found):
                return kept, sizes
            left = left[found]
            firsts = np.flatnonzero(np.diff(part[left], prepend=-1))
            lowest = np.minimum.reduceat(ranks, firsts)
            chosen = np.flatnonzero(ranks == np.repeat(lowest, np.diff(firsts, append=len(left))))
            chosen = chosen[np.diff(part[left[chosen]], prepend=-1) != 0]
            left = left[chosen]
            tokens[left] = ids[at[left]] = merged[chosen]
            kept[at[left + 1]] = False
            sizes[part[left]] -= 1
            goes_on = np.zeros(len(lengths), np.bool_)
            goes_on[part[left]] = True
            stays = goes_on[part]
            stays[left + 1] = False
            at, part, tokens = at[stays], part[stays], tokens[stays]


def wide_text(parts: dict[str, Any], table: WordTable) -> WideText | None:
    """For a tokenizer that has a table, if it can be done; `parts` is what its file holds."""
    model, pre = parts["model"], parts["pre_tokenizer"]
    # A whole word in the vocabulary is taken as it is, and a part of a word must not be.
    if model["ignore_merges"]:
        return None
    begins_at_bytes = pre is not None and pre["type"] != "Metaspace"
    as_bytes = bytes_of if begins_at_bytes else str.encode
    by_sign = {sign: as_bytes(sign) for sign in model["vocab"]}
    tokens = {token: model["vocab"][sign] for sign, token in by_sign.items() if token is not None}
    merges: dict[tuple[bytes, bytes], int] = {}
    for rank, (left, right) in enumerate(model["merges"]):
        before, after = by_sign[left], by_sign[right]
        # Byte-level BPE never comes to other signs.
        if before is not None and after is not None:
            merges[before, after] = rank
    characters = [token for token in tokens if _CHARACTER.fullmatch(token)]
    if not begins_at_bytes:
        return WideText(table, tokens, merges, dict.fromkeys(characters, -1))
    if not _ranks_rise(merges):
        return None
    ranks = {character: _whole_at(character, merges) for character in characters}
    return WideText(
        table, tokens, merges, {key: rank for key, rank in ranks.items() if rank is not None}
    )


def _whole_at(character: bytes, merges: Merges) -> int | None:
    """The rank of the second of the two merges that join a character's bytes, if they do."""
    first, second, third = (character[at : at + 1] for at in range(3))
    begin, end = merges.get((first, second), NEVER), merges.get((second, third), NEVER)
    if begin == end == NEVER:
        return None
    return merges.get((first + second, third) if begin < end else (first, second + third))


def _ranks_rise(merges: Merges) -> bool:
    """Whether every merge comes after all those that make its parts."""
    made: dict[bytes, int] = {}
    for (left, right), rank in merges.items():
        made[left + right] = max(rank, made.get(left + right, -1))
    return all(made.get(part, -1) < rank for pair, rank in merges.items() for part in pair)
