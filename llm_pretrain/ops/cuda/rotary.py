"""Rotary embedding in CUDA."""

from __future__ import annotations

from typing import Any

from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.cuda.library import call, serves


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
