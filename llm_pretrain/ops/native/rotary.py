"""Rotary embedding in C++."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.native import memory
from llm_pretrain.ops.native.library import call, declare, expect, packed, serves

declare(rotary="nnnnnnpippnfp")


def rotary(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, spans: int = 1
) -> tuple[Tensor, Tensor]:
    """`ops.rotary`."""
    if not serves(q, k):
        return NotImplemented
    cos, sin = packed(cos), packed(sin)
    return _Rotate.apply(q, cos, sin, spans), _Rotate.apply(k, cos, sin, spans)


class _Rotate(PyLayer):
    """The gradient is rotated by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, spans: int) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.spans = spans
        return _rotate(x, cos, sin, spans, 1.0)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        cos, sin = ctx.saved_tensor()
        return _rotate(dy, cos, sin, ctx.spans, -1.0)


def _rotate(x_BSND: Tensor, cos: Tensor, sin: Tensor, spans: int, sign: float) -> Tensor:
    x_BSND = packed(x_BSND)
    y_BSND = memory.empty_like(x_BSND)
    B, S, _, D = x_BSND.shape
    R = cos.shape[-1]
    table = [B, S, R] if cos.ndim == 3 else [S, R]
    expect("cos", cos, table, paddle.float32)
    expect("sin", sin, table, paddle.float32)
    if R > D:
        raise ValueError(f"cos and sin turn {R} features of a head of {D}")
    table_batch = cos.shape[0] if cos.ndim == 3 else 1
    call("rotary", *x_BSND.shape, cos.shape[-1], spans, x_BSND, x_BSND.dtype, cos, sin,
         table_batch, sign, y_BSND)  # fmt: skip
    return y_BSND
