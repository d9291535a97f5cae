"""Activations and their gated forms, rotary embedding, AdamW and the sum of squares in C++."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.gradients import for_trained, note_trained
from llm_pretrain.ops.native.library import call, count, declare, empty_like, expect, packed, serves
from llm_pretrain.ops.native.operands import recomputed

declare(
    activation="nippip",
    activation_backward="nipppipp",
    rotary="nnnnnnpippnfp",
    adamw="nppppip" + 8 * "f",
    sum_of_squares="npip",
)

_KINDS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}


def activation(name: str, x: Tensor, up: Tensor | None = None) -> Tensor:
    """`ops.activation`."""
    if not serves(x, up):
        return NotImplemented
    kind, operands = _KINDS[name], (x,) if up is None else (x, up)
    return recomputed(_Activation.apply(kind, *operands), partial(_compute, kind), *operands)


def _compute(kind: int, x: Tensor, up: Tensor | None = None) -> Tensor:
    x, up = packed(x), None if up is None else packed(up)
    y = empty_like(x)
    call("activation", count(x), kind, x, up, x.dtype, y)
    return y


class _Activation(PyLayer):
    @staticmethod
    def forward(ctx: Any, kind: int, *operands: Tensor) -> Tensor:
        x, *up = operands
        for gate in up:
            expect("up", gate, x.shape, x.dtype)
        note_trained(ctx, *operands)
        ctx.save_for_backward(*map(packed, operands))
        ctx.kind = kind
        return _compute(kind, *operands)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, *up = ctx.saved_tensor()
        dx, *dup = gradients = [empty_like(x) for _ in (x, *up)]
        call("activation_backward", count(x), ctx.kind, packed(dy), x, *(up or [None]), x.dtype, dx,
             *(dup or [None]))  # fmt: skip
        return for_trained(ctx, *gradients)


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
    y_BSND = empty_like(x_BSND)
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
    """`ops.adamw_`."""
    if not serves(weights, gradient):
        return NotImplemented
    for name, x in (("weights", weights), ("moment1", moment1), ("moment2", moment2)):
        expect(name, x, gradient.shape, paddle.float32)
    call("adamw", weights.size, weights, moment1, moment2, gradient, gradient.dtype, None,
         gradient_factor, learning_rate, beta1, beta2, epsilon, weight_decay, 1 - beta1**step,
         1 - beta2**step)  # fmt: skip
    return None


def sum_of_squares(x: Tensor) -> Tensor:
    """`ops.sum_of_squares`."""
    if not serves(x):
        return NotImplemented
    found = np.empty(1)
    call("sum_of_squares", x.size, x, x.dtype, found)
    return paddle.to_tensor(found, dtype="float32")
