"""RMSNorm and LayerNorm in C++, after the addition of a branch where there is one."""

from __future__ import annotations

from functools import partial
from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.gradients import for_trained, note_trained
from llm_pretrain.ops.native import memory
from llm_pretrain.ops.native.library import (
    as_float32,
    call,
    copied,
    count,
    declare,
    expect,
    packed,
    serves,
)
from llm_pretrain.ops.native.operands import recomputed

declare(
    add="npipip",
    rms_norm="nnppipipfpp",
    rms_norm_backward="nnppippppp",
    layer_norm="nnppipippfppp",
    layer_norm_backward="nnppippppppp",
)


def add(x: Tensor, y: Tensor) -> Tensor:
    """`ops.add`."""
    return _Add.apply(x, y) if x.shape == y.shape and serves(x, y) else NotImplemented


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """`ops.rms_norm`."""
    if not serves(x, weight):
        return NotImplemented
    y = _RMSNorm.apply(x, None, weight, epsilon)
    return recomputed(y, partial(_rms_norm, epsilon), x, weight)


def add_rms_norm(
    x: Tensor, branch: Tensor, weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """`ops.add_rms_norm`."""
    if not serves(x, branch, weight):
        return NotImplemented
    total, y = _RMSNorm.apply(x, branch, weight, epsilon)
    return total, recomputed(y, partial(_rms_norm, epsilon), total, weight)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """`ops.layer_norm`."""
    if not serves(x, weight, bias):
        return NotImplemented
    y = _LayerNorm.apply(x, None, weight, bias, epsilon)
    return recomputed(y, partial(_layer_norm, epsilon), x, weight, bias)


def add_layer_norm(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """`ops.add_layer_norm`."""
    if not serves(x, branch, weight, bias):
        return NotImplemented
    total, y = _LayerNorm.apply(x, branch, weight, bias, epsilon)
    return total, recomputed(y, partial(_layer_norm, epsilon), total, weight, bias)


def _rms_norm(epsilon: float, x: Tensor, weight: Tensor) -> Tensor:
    return _RMSNorm.apply(x.detach(), None, weight.detach(), epsilon)


def _layer_norm(epsilon: float, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _LayerNorm.apply(x.detach(), None, weight.detach(), bias.detach(), epsilon)


class _Add(PyLayer):
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


class _RMSNorm(PyLayer):
    """`ops.rms_norm`, or `ops.add_rms_norm` with a branch."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor | None, weight: Tensor, epsilon: float
    ) -> Tensor | tuple[Tensor, Tensor]:
        rows, total, head = _operands(ctx, x, branch, weight)
        y, inverse = memory.empty_like(total), memory.empty([rows], paddle.float32)
        call("rms_norm", *head, as_float32(weight), epsilon, y, inverse)
        ctx.save_for_backward(total, weight, inverse)
        return y if branch is None else (total, y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        total, weight, inverse = ctx.saved_tensor()
        dy, dtotal = _gradients(gradients)
        dx, dweight = memory.empty_like(total), memory.empty(weight.shape, paddle.float32)
        call("rms_norm_backward", count(inverse), total.shape[-1], dy, total, total.dtype,
             as_float32(weight), inverse, dtotal, dx, dweight)  # fmt: skip
        return for_trained(ctx, *_parts(ctx, dx), dweight.astype(weight.dtype))


class _LayerNorm(PyLayer):
    """`ops.layer_norm`, or `ops.add_layer_norm` with a branch."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, epsilon: float
    ) -> Tensor | tuple[Tensor, Tensor]:
        rows, total, head = _operands(ctx, x, branch, weight, bias)
        y = memory.empty_like(total)
        mean, inverse = (memory.empty([rows], paddle.float32) for _ in range(2))
        call("layer_norm", *head, as_float32(weight), as_float32(bias), epsilon, y, mean,
             inverse)  # fmt: skip
        ctx.save_for_backward(total, weight, mean, inverse)
        return y if branch is None else (total, y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        total, weight, mean, inverse = ctx.saved_tensor()
        dy, dtotal = _gradients(gradients)
        dx = memory.empty_like(total)
        dweight, dbias = (memory.empty(weight.shape, paddle.float32) for _ in range(2))
        call("layer_norm_backward", count(inverse), total.shape[-1], dy, total, total.dtype,
             as_float32(weight), mean, inverse, dtotal, dx, dweight, dbias)  # fmt: skip
        dparameters = dweight.astype(weight.dtype), dbias.astype(weight.dtype)
        return for_trained(ctx, *_parts(ctx, dx), *dparameters)


def _operands(
    ctx: Any, x: Tensor, branch: Tensor | None, *parameters: Tensor
) -> tuple[int, Tensor, tuple[Any, ...]]:
    """The rows, what is normalised, and a call's first arguments."""
    x, width = packed(x), x.shape[-1]
    for name, parameter in zip(("weight", "bias"), parameters, strict=False):
        expect(name, parameter, [width])
    rows = count(x) // width
    if branch is None:
        ctx.branch_dtype = None
        note_trained(ctx, x, *parameters)
        return rows, x, (rows, width, x, None, x.dtype, None, x.dtype)
    expect("branch", branch, x.shape)
    ctx.branch_dtype = branch.dtype
    note_trained(ctx, x, branch, *parameters)
    total = memory.empty_like(x)
    return rows, total, (rows, width, x, packed(branch), branch.dtype, total, x.dtype)


def _gradients(gradients: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
    """Of the norm and, where there was an addition, of the sum."""
    *dtotal, dy = gradients
    return packed(dy), packed(dtotal[0]) if dtotal else None


def _parts(ctx: Any, dx: Tensor) -> tuple[Tensor, ...]:
    """The gradients of what was added."""
    return (dx,) if ctx.branch_dtype is None else (dx, copied(dx, ctx.branch_dtype))
