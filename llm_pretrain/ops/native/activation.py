"""Activations and their gated forms in C++."""

from __future__ import annotations

from functools import partial
from typing import Any

from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.native import memory
from llm_pretrain.ops.native.library import call, count, declare, expect, packed, serves
from llm_pretrain.ops.native.recipe import attach
from llm_pretrain.ops.trained import for_trained, note_trained

declare(activation="nippip", activation_backward="nipppipp")

_KINDS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}


def activation(name: str, x: Tensor, up: Tensor | None = None) -> Tensor:
    """`ops.activation`."""
    if not serves(x, up):
        return NotImplemented
    kind = _KINDS[name]
    compute = partial(_compute, kind)
    if up is None:
        return attach(_Activation.apply(kind, x), compute, x)
    return attach(_Gated.apply(kind, x, up), compute, x, up)


def _compute(kind: int, x: Tensor, up: Tensor | None = None) -> Tensor:
    x, up = packed(x), None if up is None else packed(up)
    y = memory.empty_like(x)
    call("activation", count(x), kind, x, up, x.dtype, y)
    return y


class _Activation(PyLayer):
    @staticmethod
    def forward(ctx: Any, kind: int, x: Tensor) -> Tensor:
        ctx.save_for_backward(packed(x))
        ctx.kind = kind
        return _compute(kind, x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensor()
        dx = memory.empty_like(x)
        call("activation_backward", count(x), ctx.kind, packed(dy), x, None, x.dtype, dx, None)
        return dx


class _Gated(PyLayer):
    @staticmethod
    def forward(ctx: Any, kind: int, x: Tensor, up: Tensor) -> Tensor:
        note_trained(ctx, x, up)
        expect("up", up, x.shape, x.dtype)
        ctx.save_for_backward(packed(x), packed(up))
        ctx.kind = kind
        return _compute(kind, x, up)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, up = ctx.saved_tensor()
        dx, dup = memory.empty_like(x), memory.empty_like(up)
        call("activation_backward", count(x), ctx.kind, packed(dy), x, up, x.dtype, dx, dup)
        return for_trained(ctx, dx, dup)
