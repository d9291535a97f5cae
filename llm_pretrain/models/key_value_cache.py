"""Keys and values of a text that grows, so that each further token is computed alone.

Shapes: B batch, R new positions, T all positions, N query heads, K key heads, D of a head.
"""

from __future__ import annotations

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor
from paddle.nn import functional as F

from llm_pretrain.ops.mask import Mask
from llm_pretrain.ops.operator import in_float32_on_cpu


class KeyValueCache:
    """Of one layer, on one process.

    Attributes:
        length: positions that are held.
    """

    def __init__(self) -> None:
        self._held: tuple[Tensor, Tensor] | None = None

    @property
    def length(self) -> int:
        return 0 if self._held is None else int(self._held[0].shape[1])

    def extend(self, k_BRKD: Tensor, v_BRKD: Tensor) -> tuple[Tensor, Tensor]:
        """Hold these keys and values behind the others; all of them, [B, T, K, D] each."""
        if self._held is None:
            self._held = k_BRKD, v_BRKD
        else:
            k_BTKD, v_BTKD = self._held
            self._held = (
                paddle.concat([k_BTKD, k_BRKD], axis=1),
                paddle.concat([v_BTKD, v_BRKD], axis=1),
            )
        return self._held


def attend_to_cached(
    q_BRND: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, mask: Mask, positions: NDArray[np.int64]
) -> Tensor:
    """`ops.attention` of the queries at the last `positions` [R] alone, [B, R, N, D]."""

    def attend(q_BRND: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
        B, R, N, D = q_BRND.shape
        T, K = k_BTKD.shape[1:3]
        # The query heads of a group are rows of one product with their keys.
        q_BKGRD = q_BRND.reshape([B, R, K, N // K, D]).transpose([0, 2, 3, 1, 4]) * D**-0.5
        rows = q_BKGRD.reshape([B, K, -1, D])
        scores = paddle.matmul(rows, k_BTKD.transpose([0, 2, 3, 1])).astype("float32")
        scores = scores.reshape([B, N, R, T])
        bias = mask.bias(positions, np.arange(T))
        if bias is not None:
            scores = scores + bias
        weights = F.softmax(scores, axis=-1).astype(q_BRND.dtype).reshape([B, K, -1, T])
        y_BKGRD = paddle.matmul(weights, v_BTKD.transpose([0, 2, 1, 3]))
        return y_BKGRD.reshape([B, N, R, D]).transpose([0, 2, 1, 3])

    return in_float32_on_cpu(attend, q_BRND, k_BTKD, v_BTKD)
