"""RMSNorm and LayerNorm in CUDA, after the addition of a branch where there is one."""

from __future__ import annotations

from typing import Any

from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.cuda.library import call, holds, serves
from llm_pretrain.ops.gradients import for_trained, note_trained

_WIDEST = 20472
"""Layer norm's backward pass keeps its sums in shared memory, which holds no more."""


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """`ops.rms_norm`."""
    return _RMSNorm.apply(x, None, weight, epsilon) if _take(x, weight) else NotImplemented


def add_rms_norm(
    x: Tensor, branch: Tensor, weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """`ops.add_rms_norm`."""
    taken = _take(x, branch, weight)
    return _RMSNorm.apply(x, branch, weight, epsilon) if taken else NotImplemented


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """`ops.layer_norm`."""
    taken = _take(x, weight, bias)
    return _LayerNorm.apply(x, None, weight, bias, epsilon) if taken else NotImplemented


def add_layer_norm(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """`ops.add_layer_norm`."""
    taken = _take(x, branch, weight, bias)
    return _LayerNorm.apply(x, branch, weight, bias, epsilon) if taken else NotImplemented


def _take(x: Tensor, *others: Tensor) -> bool:
    """Whether the kernels take these: the others are rounded to the dtype of `x`, so they must be
    exact in it."""
    return serves(x, *others) and x.shape[-1] <= _WIDEST and holds(x.dtype, *others)


class _RMSNorm(PyLayer):
    """`ops.rms_norm`, or `ops.add_rms_norm` with a branch."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor | None, weight: Tensor, epsilon: float
    ) -> Tensor | tuple[Tensor, Tensor]:
        _note(ctx, x, branch, weight)
        y, total, inverse = call(
            "rms_norm", x, _cast(branch, x), weight.astype(x.dtype), float(epsilon)
        )
        ctx.save_for_backward(x if branch is None else total, weight, inverse)
        return y if branch is None else (total, y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        total, weight, inverse = ctx.saved_tensor()
        dy, dtotal = _gradients(gradients)
        dx, dweight = call(
            "rms_norm_backward", dy, total, weight.astype(total.dtype), inverse, dtotal
        )
        return for_trained(ctx, *_parts(ctx, dx), dweight.astype(weight.dtype))


class _LayerNorm(PyLayer):
    """`ops.layer_norm`, or `ops.add_layer_norm` with a branch."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, epsilon: float
    ) -> Tensor | tuple[Tensor, Tensor]:
        _note(ctx, x, branch, weight, bias)
        parameters = weight.astype(x.dtype), bias.astype(x.dtype)
        y, total, mean, inverse = call(
            "layer_norm", x, _cast(branch, x), *parameters, float(epsilon)
        )
        ctx.save_for_backward(x if branch is None else total, weight, mean, inverse)
        ctx.bias_dtype = bias.dtype
        return y if branch is None else (total, y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        total, weight, mean, inverse = ctx.saved_tensor()
        dy, dtotal = _gradients(gradients)
        dx, dweight, dbias = call(
            "layer_norm_backward", dy, total, weight.astype(total.dtype), mean, inverse, dtotal
        )
        dparameters = dweight.astype(weight.dtype), dbias.astype(ctx.bias_dtype)
        return for_trained(ctx, *_parts(ctx, dx), *dparameters)


def _note(ctx: Any, x: Tensor, branch: Tensor | None, *parameters: Tensor) -> None:
    ctx.branch_dtype = None if branch is None else branch.dtype
    note_trained(ctx, *(operand for operand in (x, branch, *parameters) if operand is not None))


def _cast(branch: Tensor | None, x: Tensor) -> Tensor | None:
    return None if branch is None else branch.astype(x.dtype)


def _gradients(gradients: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
    """Of the norm and, where there was an addition, of the sum."""
    *dtotal, dy = gradients
    return dy, dtotal[0] if dtotal else None


def _parts(ctx: Any, dx: Tensor) -> tuple[Tensor, ...]:
    """The gradients of what was added, in memory of their own: autograd may add to either."""
    if ctx.branch_dtype is None:
        return (dx,)
    return dx, dx.clone() if ctx.branch_dtype == dx.dtype else dx.astype(ctx.branch_dtype)
