"""Activations and their gated forms in C++."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.native.library import call, expect, packed
from llm_pretrain.ops.trained import for_trained, note_trained

_KINDS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}


def activation(name: str, x: Tensor, up: Tensor | None) -> Tensor:
    """`ops.activation`."""
    return _Activation.apply(_KINDS[name], x) if up is None else _Gated.apply(_KINDS[name], x, up)


class _Activation(PyLayer):
    @staticmethod
    def forward(ctx: Any, kind: int, x: Tensor) -> Tensor:
        x = packed(x)
        y = paddle.empty_like(x)
        call("activation", x.size, kind, x, None, x.dtype, y)
        ctx.save_for_backward(x)
        ctx.kind = kind
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensor()
        dx = paddle.empty_like(x)
        call("activation_backward", x.size, ctx.kind, packed(dy), x, None, x.dtype, dx, None)
        return dx


class _Gated(PyLayer):
    @staticmethod
    def forward(ctx: Any, kind: int, x: Tensor, up: Tensor) -> Tensor:
        note_trained(ctx, x, up)
        expect("up", up, x.shape, x.dtype)
        x, up = packed(x), packed(up)
        y = paddle.empty_like(x)
        call("activation", x.size, kind, x, up, x.dtype, y)
        ctx.save_for_backward(x, up)
        ctx.kind = kind
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, up = ctx.saved_tensor()
        dx, dup = paddle.empty_like(x), paddle.empty_like(up)
        call("activation_backward", x.size, ctx.kind, packed(dy), x, up, x.dtype, dx, dup)
        return for_trained(ctx, dx, dup)
