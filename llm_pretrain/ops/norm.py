"""Root mean square normalisation (Zhang and Sennrich, arXiv:1910.07467)."""

from __future__ import annotations

import paddle
from paddle import Tensor


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x²) + epsilon) · weight over the last axis, computed in float32.

    Args:
        x: [..., H].
        weight: [H].

    Returns:
        [..., H] in the dtype of `x`.
    """
    x32 = x.astype("float32")
    scale = paddle.rsqrt(x32.square().mean(-1, keepdim=True) + epsilon)
    return (x32 * scale).astype(x.dtype) * weight.astype(x.dtype)
