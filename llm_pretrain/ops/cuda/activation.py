"""Activations and their gated forms in CUDA."""

from __future__ import annotations

from typing import Any

from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.cuda.library import call, serves
from llm_pretrain.ops.trained import for_trained, note_trained

_KINDS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}


def activation(name: str, x: Tensor, up: Tensor | None = None) -> Tensor:
    """`ops.activation`."""
    fits = up is None or (up.shape == x.shape and up.dtype == x.dtype)
    if not fits or not serves(x, up):
        return NotImplemented
    kind = _KINDS[name]
    return _Activation.apply(kind, x) if up is None else _Gated.apply(kind, x, up)


class _Activation(PyLayer):
    @staticmethod
    def forward(ctx: Any, kind: int, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.kind = kind
        return call("activation", x, None, kind)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensor()
        return call("activation_backward", dy, x, None, ctx.kind)[0]


class _Gated(PyLayer):
    @staticmethod
    def forward(ctx: Any, kind: int, x: Tensor, up: Tensor) -> Tensor:
        note_trained(ctx, x, up)
        ctx.save_for_backward(x, up)
        ctx.kind = kind
        return call("activation", x, up, kind)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, up = ctx.saved_tensor()
        return for_trained(ctx, *call("activation_backward", dy, x, up, ctx.kind))
