"""A part of a gradient."""

from __future__ import annotations

from typing import Any

from paddle import Tensor
from paddle.autograd import PyLayer


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """`x`, whose gradient is multiplied by `factor` on its way back."""
    return _ScaleGradient.apply(x, factor)


class _ScaleGradient(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy.astype("float32").scale_(ctx.factor).astype(dy.dtype)
