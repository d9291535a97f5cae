"""Rotary position embedding (Su et al., arXiv:2104.09864)."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys by their positions, in float32.

    A head's first half is paired with its second: (a, b) becomes
    (a cos - b sin, b cos + a sin).

    Args:
        q: [B, S, N, D].
        k: [B, S, K, D].
        cos, sin: float32 [S, D], both halves alike.

    Returns:
        Tensors like `q` and `k`.
    """
    half = cos.shape[-1] // 2
    signed_sin = paddle.concat([-sin[:, :half], sin[:, half:]], axis=-1)
    return _Rotate.apply(q, cos, signed_sin), _Rotate.apply(k, cos, signed_sin)


class _Rotate(PyLayer):
    """The gradient is rotated by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, signed_sin)
        return _rotate(x, cos, signed_sin)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        cos, signed_sin = ctx.saved_tensor()
        return _rotate(dy, cos, -signed_sin)


def _rotate(x_BSND: Tensor, cos_SD: Tensor, signed_sin_SD: Tensor) -> Tensor:
    B, S, N, D = x_BSND.shape
    x32 = x_BSND.astype("float32")
    swapped = paddle.roll(x32, D // 2, axis=-1)
    # Tables as wide as all heads: broadcasting in the middle of a shape is slow on CPU.
    cos, sin = (paddle.tile(table, [1, N]) for table in (cos_SD, signed_sin_SD))
    rotated = x32.reshape([B, S, N * D]) * cos
    rotated.add_(swapped.reshape([B, S, N * D]).multiply_(sin))
    return rotated.astype(x_BSND.dtype).reshape(x_BSND.shape)
