"""Which keys a query sees, and how much less the distant ones weigh.

Shapes: B batch, S positions of a whole sample, N query heads, R queries and T keys of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor

from llm_pretrain.machine.device import to_device

Positions = NDArray[np.int64]

HIDDEN = -1e30
"""What hides a key from a query. Finite, so that a row of a block in which all is hidden has a
softmax; what the row sees in other blocks leaves nothing of it."""


@dataclass(frozen=True, eq=False)
class Mask:
    """What is visible, as rules on positions, of which a block's bias is made when it is needed.

    Without options a position sees itself and what stands before it.
    """

    slopes: NDArray[np.float32] | None = None
    """[N], of linear biases (ALiBi, arXiv:2108.12409): slope · (key - query) joins a score."""
    prefix_ends: NDArray[np.int64] | None = None
    """[B, S]: a position sees what stands before this, even behind itself."""
    document_starts: NDArray[np.int64] | None = None
    """[B, S]: where the document of each position begins; nothing before that is seen."""

    @property
    def is_plain(self) -> bool:
        """Whether a position sees itself and what stands before it, without options."""
        return self.slopes is None and self.prefix_ends is None and self.document_starts is None

    def seen_ends(self, queries: Positions) -> Positions:
        """[B or 1, R]: the first position of those that a query doesn't see any more."""
        ends = queries[None] + 1
        return ends if self.prefix_ends is None else np.maximum(ends, self.prefix_ends[:, queries])

    def hides_all(self, queries: Positions, keys: Positions) -> bool:
        """Whether no query of a block sees any of its keys."""
        in_the_future = keys.min() >= self.seen_ends(queries).max()
        in_another_document = (
            self.document_starts is not None and keys.max() < self.document_starts[:, queries].min()
        )
        return bool(in_the_future or in_another_document)

    def sees_all(self, queries: Positions, keys: Positions) -> bool:
        """Whether every query of a block sees all of its keys."""
        within_document = (
            self.document_starts is None or self.document_starts[:, queries].max() <= keys.min()
        )
        return bool(within_document and keys.max() < self.seen_ends(queries).min())

    def bias(self, queries: Positions, keys: Positions) -> Tensor | None:
        """What is added to the scores of a block, float32 [B or 1, N or 1, R, T]; None is nothing.

        Args:
            queries: [R] positions in the sample, one after another.
            keys: [T] positions in the sample, one after another.
        """
        bias = None if self.sees_all(queries, keys) else self._hiding(queries, keys)
        if self.slopes is not None:
            distances_RT = _column(keys).T - _column(queries)
            nearness = to_device(self.slopes).reshape([1, -1, 1, 1]) * distances_RT
            bias = nearness if bias is None else bias + nearness
        return bias

    def _hiding(self, queries: Positions, keys: Positions) -> Tensor:
        """0, or `HIDDEN` where a query doesn't see a key, [B or 1, 1, R, T]."""
        if self.prefix_ends is None and self.document_starts is None:
            return _future(len(queries), len(keys), int(queries[0] - keys[0]))
        keys_11T = to_device(keys).reshape([1, 1, -1])
        visible = keys_11T < to_device(self.seen_ends(queries)).unsqueeze(-1)
        if self.document_starts is not None:
            starts_BR1 = to_device(self.document_starts[:, queries]).unsqueeze(-1)
            visible = visible & (keys_11T >= starts_BR1)
        return visible.logical_not().astype("float32").scale_(HIDDEN).unsqueeze(1)


def _column(positions: Positions) -> Tensor:
    return to_device(positions.astype("float32")).unsqueeze(-1)


@lru_cache(maxsize=32)
def _future(queries: int, keys: int, offset: int) -> Tensor:
    """What hides the future, [1, 1, R, T], where the first query stands `offset` after the first
    key. Every layer and micro-batch needs the same few."""
    whole = paddle.full([queries, keys], HIDDEN, dtype="float32")
    return paddle.triu(whole, offset + 1).reshape([1, 1, queries, keys])
