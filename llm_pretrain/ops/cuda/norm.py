"""RMSNorm and LayerNorm in CUDA, after the addition of a branch where there is one."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.cuda.library import call, holds, serves
from llm_pretrain.ops.gradients import for_trained, note_trained

_WIDEST = 20472
"""Layer norm's backward pass keeps its sums in shared memory, which holds no more."""
_KINDS = {1: "rms_norm", 2: "layer_norm"}
"""By the number of parameters."""


def norm(x: Tensor, branch: Tensor | None, epsilon: float, *parameters: Tensor) -> Any:
    """`ops.norm.norm`."""
    others = parameters if branch is None else (branch, *parameters)
    # The others are rounded to the dtype of `x`, so they must be exact in it.
    if not serves(x, *others) or x.shape[-1] > _WIDEST or not holds(x.dtype, *others):
        return NotImplemented
    return _Norm.apply(x, branch, epsilon, *parameters)


class _Norm(PyLayer):
    """By a weight RMSNorm, by a weight and a bias LayerNorm."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor | None, epsilon: float, *parameters: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        note_trained(ctx, *(operand for operand in (x, branch, *parameters) if operand is not None))
        added = None if branch is None else branch.astype(x.dtype)
        rounded = (parameter.astype(x.dtype) for parameter in parameters)
        y, total, *statistics = call(_KINDS[len(parameters)], x, added, *rounded, float(epsilon))
        ctx.save_for_backward(x if branch is None else total, parameters[0], *statistics)
        ctx.branch_dtype = None if branch is None else branch.dtype
        ctx.dtypes = [parameter.dtype for parameter in parameters]
        return y if branch is None else (total, y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        total, weight, *statistics = ctx.saved_tensor()
        *dtotal, dy = gradients  # of the sum, where there was an addition
        operands = dy, total, weight.astype(total.dtype), *statistics, *(dtotal or [None])
        dx, *dparameters = call(f"{_KINDS[len(ctx.dtypes)]}_backward", *operands)
        # In memory of their own: autograd may add to either.
        dbranch = [] if ctx.branch_dtype is None else [_copied(dx, ctx.branch_dtype)]
        casts = (d.astype(dtype) for d, dtype in zip(dparameters, ctx.dtypes, strict=True))
        return for_trained(ctx, dx, *dbranch, *casts)


def _copied(x: Tensor, dtype: paddle.dtype) -> Tensor:
    return x.clone() if x.dtype == dtype else x.astype(dtype)
