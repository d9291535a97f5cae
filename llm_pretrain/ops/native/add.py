"""Addition in C++, of tensors of two types."""

from __future__ import annotations

from typing import Any

from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.native import memory
from llm_pretrain.ops.native.library import call, copied, count, packed
from llm_pretrain.ops.trained import for_trained, note_trained


class Add(PyLayer):
    """`ops.add`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        note_trained(ctx, x, y)
        x, y = packed(x), packed(y)
        total = memory.empty_like(x)
        call("add", count(x), x, x.dtype, y, y.dtype, total)
        ctx.y_dtype = y.dtype
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return for_trained(ctx, gradient, copied(gradient, ctx.y_dtype))
