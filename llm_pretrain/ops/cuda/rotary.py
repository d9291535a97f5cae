"""Rotary embedding in CUDA."""

from __future__ import annotations

from typing import Any

from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.cuda.library import call


class Rotate(PyLayer):
    """`ops.rotary` of queries or keys. The gradient is rotated by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, spans: int) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.spans = spans
        return call("rotary", x, cos, sin, spans, 1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        cos, sin = ctx.saved_tensor()
        return call("rotary", dy, cos, sin, ctx.spans, -1)
