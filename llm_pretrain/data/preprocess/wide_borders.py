"""Borders at which a text in wide characters can be cut without changing its tokens.

Wide are characters of three bytes in UTF-8: those of Chinese, Japanese, Korean, Thai and others.
Where BPE has no merge that joins what ends in one character with what begins with the next one,
the tokens of a text are those of its parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

JOINED = 1
"""All of one character may be merged with all of the next one."""
MIXED = 2
"""Some bytes of one may be merged with the other before it is whole, or one of them isn't wide."""
_IF_APART = 4
"""So they may if its other bytes are merged with what is on its other side: it is never whole."""

BASIC = 0x10000
NEVER = np.iinfo(np.int64).max
_FIRST_WIDE = 0x800
_WHOLE_BYTES = 3
_LEADS, _FOLLOWING = range(0xE0, 0xF0), range(0x80, 0xC0)
# The last and the first three bytes of what a merge joins: a whole character, or a part of one.
_LEFT = re.compile(rb"([\xe0-\xef][\x80-\xbf]{2}|[\x80-\xbf]{1,2})\Z")
_RIGHT = re.compile(rb"[\xe0-\xef][\x80-\xbf]{0,2}\Z")
# Classes of characters: wide ones that never are whole, and all that are not wide. The other ones
# have a class each.
_OTHER_WIDE, _NOT_WIDE = 0, 1

Codes = NDArray[np.int64]
Merges = Mapping[tuple[bytes, bytes], int]


class Borders:
    """What may be merged across two characters.

    Args:
        merges: the rank of each merge, by what it joins.
        whole_at: shape [BASIC]: for each character the rank of the merge that makes it whole, or
            NEVER. What joins a part of it later finds no such part.
    """

    def __init__(self, merges: Merges, whole_at: NDArray[np.int64]) -> None:
        known = np.flatnonzero(whole_at < NEVER)
        self._classes = np.full(BASIC, _OTHER_WIDE)
        self._classes[known] = np.arange(_NOT_WIDE + 1, _NOT_WIDE + 1 + len(known))
        self._classes[:_FIRST_WIDE] = _NOT_WIDE
        self._count = _NOT_WIDE + 1 + len(known)
        # Most of its pages are never written to, and take no memory.
        kinds = np.zeros((self._count, self._count), np.uint8)
        whole_lefts, whole_rights = [], []
        for (before, after), rank in merges.items():
            left, right = before[-_WHOLE_BYTES:], after[:_WHOLE_BYTES]
            # Nearly all merges of other characters end here.
            if right[0] not in _LEADS or left[-1] not in _FOLLOWING:
                continue
            if left[0] in _LEADS and len(left) == len(right) == _WHOLE_BYTES:
                whole_lefts.append(left)
                whole_rights.append(right)
            elif _LEFT.match(left) and _RIGHT.match(right):
                lefts, rights = _ending_in(left), _beginning_with(right)
                kinds[self._block(lefts, rights)] |= _IF_APART
                if len(left) < _WHOLE_BYTES:
                    lefts = lefts[whole_at[lefts] > rank]
                if len(right) < _WHOLE_BYTES:
                    rights = rights[whole_at[rights] > rank]
                kinds[self._block(lefts, rights)] |= MIXED
        lefts, rights = _codes(whole_lefts), _codes(whole_rights)
        kinds[self._classes[lefts], self._classes[rights]] |= JOINED
        kinds[_NOT_WIDE] = kinds[:, _NOT_WIDE] = MIXED
        self._kinds = kinds.ravel()

    def between(self, codes: Codes, word_ends: NDArray[np.int64]) -> NDArray[np.uint8]:
        """JOINED or MIXED for each two neighbours, or 0: they can be cut apart.

        `codes`: all characters, 0 for those from BASIC on; `word_ends`: where words end, across
        which nothing is merged.
        """
        kinds = self._kinds[self._classes[codes[:-1]] * self._count + self._classes[codes[1:]]]
        kinds[word_ends[:-1] - 1] = 0
        # A place is one further on here: the ends have no neighbours that are mixed.
        mixed = np.zeros(len(codes) + 1, np.bool_)
        mixed[1:-1] = kinds & MIXED
        apart = np.flatnonzero(kinds & _IF_APART) + 1
        while len(more := apart[~mixed[apart] & (mixed[apart - 1] | mixed[apart + 1])]):
            mixed[more] = True
        kinds &= JOINED
        kinds[mixed[1:-1]] = MIXED
        return kinds

    def _block(self, lefts: Codes, rights: Codes) -> tuple[NDArray[np.int64], ...]:
        return np.ix_(np.unique(self._classes[lefts]), np.unique(self._classes[rights]))


def _ending_in(side: bytes) -> Codes:
    """The wide characters whose last bytes these are."""
    if len(side) == _WHOLE_BYTES:
        return _beginning_with(side)
    # Each byte that continues a character has six bits of it.
    count = 1 << 6 * len(side)
    return np.arange(_FIRST_WIDE + (_bits(side) - _FIRST_WIDE) % count, BASIC, count)


def _beginning_with(side: bytes) -> Codes:
    """The wide characters whose first bytes these are."""
    count = 1 << 6 * (_WHOLE_BYTES - len(side))
    first = _bits(side) * count
    return np.arange(max(first, _FIRST_WIDE), first + count)


def _codes(characters: list[bytes]) -> Codes:
    each = np.frombuffer(b"".join(characters), np.uint8).reshape(-1, _WHOLE_BYTES).astype(np.int64)
    return (each & 0x3F) @ np.array([0, 1 << 6, 1]) + ((each[:, 0] & 0x0F) << 12)


def _bits(side: bytes) -> int:
    """The bits of a character that its bytes, or some of them, hold."""
    value = 0
    for byte in side:
        value = value << 6 | byte & (0x0F if byte >= 0xE0 else 0x3F)
    return value
