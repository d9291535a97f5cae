"""Gradients of operators: which operands get them, where they are added up, and a part of one.

A run adds up a weight's gradients in float32, in what the buckets hold. An operator that adds its
share there makes no gradient tensor, whose memory and whose addition are saved, and returns None
for the weight instead. Autograd then still reports that the weight's gradient is complete.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paddle import Tensor
from paddle.autograd import PyLayer

Sum = tuple[Tensor, bool]
"""A float32 tensor of the weight's shape, and whether it holds gradients already. Otherwise what
stands there means nothing, and who asks for it writes all of it."""


def offer_sum(weight: Tensor, sum_of_gradients: Callable[[], Sum | None]) -> None:
    """Say where the gradients of `weight` go."""
    weight.sum_of_gradients = sum_of_gradients


def sum_of_gradients(weight: Tensor) -> Sum | None:
    """Where the gradients of `weight` are added up, if that can be done directly."""
    offered: Callable[[], Sum | None] | None = getattr(weight, "sum_of_gradients", None)
    return None if offered is None else offered()


def note_trained(ctx: Any, *operands: Tensor) -> None:
    """Remember, in the forward pass of a PyLayer, which operands are differentiated."""
    ctx.trained = [not operand.stop_gradient for operand in operands]


def for_trained(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients as Paddle wants them: None for an operand that gets none."""
    return tuple(
        gradient if is_trained else None
        for gradient, is_trained in zip(gradients, ctx.trained, strict=True)
    )


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
