"""Activations and their gated forms, rotary embedding and AdamW in CUDA."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.cuda.library import call, serves
from llm_pretrain.ops.gradients import for_trained, note_trained

_KINDS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}


def activation(name: str, x: Tensor, up: Tensor | None = None) -> Tensor:
    """`ops.activation`."""
    fits = up is None or (up.shape == x.shape and up.dtype == x.dtype)
    if not fits or not serves(x, up):
        return NotImplemented
    return _Activation.apply(_KINDS[name], *((x,) if up is None else (x, up)))


class _Activation(PyLayer):
    @staticmethod
    def forward(ctx: Any, kind: int, *operands: Tensor) -> Tensor:
        x, *up = operands
        note_trained(ctx, *operands)
        ctx.save_for_backward(*operands)
        ctx.kind = kind
        return call("activation", x, *(up or [None]), kind)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, *up = ctx.saved_tensor()
        gradients = call("activation_backward", dy, x, *(up or [None]), ctx.kind)
        return for_trained(ctx, *gradients[: 1 + len(up)])


def rotary(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, spans: int = 1
) -> tuple[Tensor, Tensor]:
    """`ops.rotary`."""
    if not serves(q, k):
        return NotImplemented
    return _Rotate.apply(q, cos, sin, spans), _Rotate.apply(k, cos, sin, spans)


class _Rotate(PyLayer):
    """The gradient is rotated by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, spans: int) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.spans = spans
        return call("rotary", x, cos, sin, spans, 1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        cos, sin = ctx.saved_tensor()
        return call("rotary", dy, cos, sin, ctx.spans, -1)


def adamw_(
    weights: Tensor,
    moment1: Tensor,
    moment2: Tensor,
    gradient: Tensor,
    *,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    gradient_factor: float,
    step: int,
) -> None:
    """`ops.adamw_`; what the kernel updates in place has no gaps."""
    updated = weights, moment1, moment2
    has_gaps = any(x.dtype != paddle.float32 or not x.is_contiguous() for x in updated)
    if has_gaps or not serves(weights, gradient):
        return NotImplemented
    # Detached: extensions may not write to what gets gradients, even where none are recorded.
    call("adamw", [weights.detach()], [moment1], [moment2], [gradient], [weight_decay],
         gradient_factor, learning_rate, beta1, beta2, epsilon, 1 - beta1**step,
         1 - beta2**step)  # fmt: skip
    return None
