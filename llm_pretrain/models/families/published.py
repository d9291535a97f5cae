"""Where this program's tensors stand in the files of others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Blocks:
    """Equal blocks of an axis, at equal distances: one of several tensors that are packed together.

    Query, key and value of every head side by side are each `count` heads' blocks of `size`, a
    `stride` of three sizes apart; whole tensors one after another are one block each.
    """

    start: int
    count: int
    size: int
    stride: int
    total: int
    """Length of the whole axis."""

    def indices(self, begin: int, end: int) -> NDArray[np.int64]:
        """Where the elements [begin, end) of the tensor stand on the axis."""
        numbers = np.arange(begin, end)
        return self.start + numbers // self.size * self.stride + numbers % self.size


def one_block(start: int, size: int, total: int) -> Blocks:
    """Elements [start, start + size) of an axis of length `total`."""
    return Blocks(start, 1, size, size, total)


QUERY_KEY_VALUE = ("query", "key", "value")


def third(name: str, width: int) -> Blocks:
    """Where query, key or value stands in a matrix of all three, one after another."""
    return one_block(QUERY_KEY_VALUE.index(name) * width, width, 3 * width)


def part_of_heads(name: str, heads: int, size: int) -> Blocks:
    """Where query, key or value stands in a matrix of all three, head by head."""
    return Blocks(QUERY_KEY_VALUE.index(name) * size, heads, size, 3 * size, 3 * size * heads)


@dataclass(frozen=True)
class Source:
    """A published tensor, and which part of it one of this program's tensors is."""

    name: str
    is_transposed: bool = False
    """Linear weights are [out, in] there and [in, out] here."""
    outputs: Blocks | None = None
    """Which outputs, the last axis here, where several tensors are packed in one; None is all."""
    copy: str | None = None
    """Another name under which the same tensor is written, for a program that has it twice."""

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The published tensor's shape, from this program's."""
        if self.outputs is not None:
            shape = (*shape[:-1], self.outputs.total)
        return shape[::-1] if self.is_transposed else shape
