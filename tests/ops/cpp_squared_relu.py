"""The squared ReLU in C++, as a ReLU that has its input as its gate."""

from __future__ import annotations

from typing import Any

from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.native import library
from llm_pretrain.ops.native.library import call, count, declare, packed, serves
from llm_pretrain.ops.native.norm import add

declare(activation="nippip", activation_backward="nipppipp")

_RELU = 3


def squared_relu(x: Tensor) -> Tensor:
    """The reference's, of operands on the CPU in float32 or bfloat16."""
    return _SquaredReLU.apply(x) if serves(x) else NotImplemented


class _SquaredReLU(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = packed(x)
        ctx.save_for_backward(x)
        y = library.empty_like(x)
        call("activation", count(x), _RELU, x, x, x.dtype, y)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensor()
        dx, dgate = library.empty_like(x), library.empty_like(x)
        call("activation_backward", count(x), _RELU, packed(dy), x, x, x.dtype, dx, dgate)
        return add(dx, dgate)
