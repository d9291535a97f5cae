"""Gradients of operators: which operands get them, where they are added up and by whom shared.

A run adds up a weight's gradients in float32, in what the buckets hold. An operator that adds its
share there makes no gradient tensor, whose memory and whose addition are saved, and returns None
for the weight instead. Autograd then still reports that the weight's gradient is complete.

Where ranks share the outputs of linear maps, each has a part of the gradient of their input. The
parts are summed while the weights' gradients are computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

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


class Arriving(Protocol):
    """A tensor on its way."""

    def wait(self) -> Tensor:
        """The tensor, for whatever the caller computes from now on."""


class SharedInput(Protocol):
    """How ranks that share the outputs of linear maps come by the input that all of them need."""

    def gather(self, x: Tensor) -> Tensor:
        """The whole input, where `x` is what this rank has of it."""

    def start_sum(self, dwhole: Tensor) -> Arriving:
        """Begin to sum the ranks' gradients of the whole input; what arrives is that of `x`.

        `dwhole` may be overwritten.
        """


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
