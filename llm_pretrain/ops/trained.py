"""Which operands of an operator get gradients."""

from __future__ import annotations

from typing import Any

from paddle import Tensor


def note_trained(ctx: Any, *operands: Tensor) -> None:
    """Remember, in the forward pass of a PyLayer, which operands are differentiated."""
    ctx.trained = [not operand.stop_gradient for operand in operands]


def for_trained(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients as Paddle wants them: None for an operand that gets none."""
    return tuple(
        gradient if is_trained else None
        for gradient, is_trained in zip(gradients, ctx.trained, strict=True)
    )
