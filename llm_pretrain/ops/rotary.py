"""Rotary position embedding (Su et al., arXiv:2104.09864)."""

from __future__ import annotations

import paddle
from paddle import Tensor


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys by their positions, in float32.

    A head's first half is paired with its second: (a, b) becomes
    (a cos - b sin, b cos + a sin).

    Args:
        q: [B, S, N, D] and k: [B, S, K, D].
        cos, sin: float32 [S, D], both halves alike.

    Returns:
        Tensors like `q` and `k`.
    """
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return _rotate(q, cos, sin), _rotate(k, cos, sin)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    x32 = x.astype("float32")
    a, b = paddle.chunk(x32, 2, axis=-1)
    return (x32 * cos + paddle.concat([-b, a], axis=-1) * sin).astype(x.dtype)
