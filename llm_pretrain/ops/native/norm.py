"""RMSNorm and LayerNorm in C++, after the addition of a branch where there is one."""

from __future__ import annotations

from functools import partial
from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.gradients import for_trained, note_trained
from llm_pretrain.ops.native.library import (
    as_float32,
    call,
    copied,
    count,
    declare,
    empty,
    empty_like,
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

_KINDS = {1: "rms_norm", 2: "layer_norm"}
"""By the number of parameters."""


def add(x: Tensor, y: Tensor) -> Tensor:
    """`ops.add`."""
    return _Add.apply(x, y) if x.shape == y.shape and serves(x, y) else NotImplemented


def norm(x: Tensor, branch: Tensor | None, epsilon: float, *parameters: Tensor) -> Any:
    """`ops.norm.norm`."""
    if not serves(x, branch, *parameters):
        return NotImplemented
    if branch is None:
        y = _Norm.apply(x, None, epsilon, *parameters)
        return recomputed(y, partial(_again, epsilon), x, *parameters)
    total, y = _Norm.apply(x, branch, epsilon, *parameters)
    return total, recomputed(y, partial(_again, epsilon), total, *parameters)


def _again(epsilon: float, x: Tensor, *parameters: Tensor) -> Tensor:
    return _Norm.apply(x.detach(), None, epsilon, *(one.detach() for one in parameters))


class _Add(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        note_trained(ctx, x, y)
        x, y = packed(x), packed(y)
        total = empty_like(x)
        call("add", count(x), x, x.dtype, y, y.dtype, total)
        ctx.y_dtype = y.dtype
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return for_trained(ctx, gradient, copied(gradient, ctx.y_dtype))


class _Norm(PyLayer):
    """By a weight RMSNorm, by a weight and a bias LayerNorm."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor | None, epsilon: float, *parameters: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        note_trained(ctx, *(operand for operand in (x, branch, *parameters) if operand is not None))
        x, width = packed(x), x.shape[-1]
        for name, parameter in zip(("weight", "bias"), parameters, strict=False):
            expect(name, parameter, [width])
        rows, total, added = count(x) // width, x, (None, x.dtype, None)
        if branch is not None:
            expect("branch", branch, x.shape)
            total = empty_like(x)
            added = packed(branch), branch.dtype, total
        y = empty_like(x)
        # The inverse of the root of the squares' mean; before it the mean, where there is a bias.
        statistics = [empty([rows], paddle.float32) for _ in parameters]
        call(_KINDS[len(parameters)], rows, width, x, *added, x.dtype,
             *map(as_float32, parameters), epsilon, y, *statistics)  # fmt: skip
        ctx.save_for_backward(total, parameters[0], *statistics)
        ctx.branch_dtype = None if branch is None else branch.dtype
        ctx.dtypes = [parameter.dtype for parameter in parameters]
        return y if branch is None else (total, y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        total, weight, *statistics = ctx.saved_tensor()
        *dtotal, dy = map(packed, gradients)  # of the sum, where there was an addition
        dx = empty_like(total)
        dparameters = [empty(weight.shape, paddle.float32) for _ in ctx.dtypes]
        call(f"{_KINDS[len(ctx.dtypes)]}_backward", count(statistics[0]), total.shape[-1], dy,
             total, total.dtype, as_float32(weight), *statistics, *(dtotal or [None]), dx,
             *dparameters)  # fmt: skip
        dbranch = [] if ctx.branch_dtype is None else [copied(dx, ctx.branch_dtype)]
        casts = (d.astype(dtype) for d, dtype in zip(dparameters, ctx.dtypes, strict=True))
        return for_trained(ctx, dx, *dbranch, *casts)
