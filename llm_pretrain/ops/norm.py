"""Root mean square (Zhang and Sennrich, arXiv:1910.07467) and layer norm (arXiv:1607.06450), and
the addition of a branch, which most of them do first."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from llm_pretrain.ops import paddle_elementwise
from llm_pretrain.ops.cuda import norm as cuda
from llm_pretrain.ops.gradients import for_trained, note_trained
from llm_pretrain.ops.native import norm as native
from llm_pretrain.ops.operator import Draw, Operator, Work
from llm_pretrain.ops.workload import Workload

NORM = Operator(
    "norm", switch="use_fused_rms_norm", cpp=native, cuda=cuda, paddle=paddle_elementwise
)


@NORM.reference
def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y, added in float32, in the dtype of `x`: the residual stream and a branch."""
    return (x.astype("float32") + y.astype("float32")).astype(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x²) + epsilon) · weight over the last axis, computed in float32.

    Args:
        x: [..., H].
        weight: [H].

    Returns:
        [..., H] in the dtype of `x`.
    """
    return norm(x, None, epsilon, weight)


def add_rms_norm(
    x: Tensor, branch: Tensor, weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """s = x + branch, in the dtype of `x`, and `rms_norm` of s."""
    return norm(x, branch, epsilon, weight)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """(x - mean(x)) / sqrt(var(x) + epsilon) · weight + bias over the last axis, in float32.

    Args:
        x: [..., H].
        weight, bias: [H].

    Returns:
        [..., H] in the dtype of `x`.
    """
    return norm(x, None, epsilon, weight, bias)


def add_layer_norm(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """s = x + branch, in the dtype of `x`, and `layer_norm` of s."""
    return norm(x, branch, epsilon, weight, bias)


@NORM.reference
def norm(x: Tensor, branch: Tensor | None, epsilon: float, *parameters: Tensor) -> Any:
    """The four above: with a weight RMSNorm, with a weight and a bias layer norm."""
    if branch is not None:
        total = add(x, branch)
        return total, norm(total, None, epsilon, *parameters)
    if len(parameters) == 1:
        return _RMSNorm.apply(x, *parameters, epsilon)
    x32, weight32, bias32 = (operand.astype("float32") for operand in (x, *parameters))
    return F.layer_norm(x32, [x.shape[-1]], weight32, bias32, epsilon).astype(x.dtype)


class _RMSNorm(PyLayer):
    """With n = x / rms and h = weight · dy: dx = (h - n · mean(h · n)) / rms."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        x32 = x.astype("float32")
        inverse_rms = paddle.rsqrt(x32.square().mean(-1, keepdim=True) + epsilon)
        note_trained(ctx, x, weight)
        ctx.save_for_backward(x, weight, inverse_rms)
        return (x32 * inverse_rms).multiply_(weight.astype("float32")).astype(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse_rms = ctx.saved_tensor()
        dy32 = dy.astype("float32")
        normalised = x.astype("float32") * inverse_rms
        dweight = (dy32 * normalised).reshape([-1, x.shape[-1]]).sum(0)
        dx = dy32 * weight.astype("float32")
        normalised.multiply_((dx * normalised).mean(-1, keepdim=True))
        dx.subtract_(normalised).multiply_(inverse_rms)
        return for_trained(ctx, dx.astype(x.dtype), dweight.astype(weight.dtype))


def normalise_columns(weight: Tensor) -> Tensor:
    """Divide every column of `weight` [H, V] by its Euclidean norm, in float32 (but by 1e-7 at
    least, as Baichuan 2 has it), and return it in its dtype."""
    weight32 = weight.astype("float32")
    # Bounded before the root, whose derivative at zero would make a column of padding NaN.
    lengths = weight32.square().sum(0, keepdim=True).clip(min=1e-14).sqrt()
    return (weight32 / lengths).astype(weight.dtype)


@NORM.self_test
def _example(draw: Draw) -> list[Tensor]:
    x, weight, bias = draw(2, 5, 48), draw(48), draw(48)
    branch = draw(2, 5, 48)
    outputs = [rms_norm(x, weight, 1e-5), layer_norm(x, weight, bias, 1e-5)]
    outputs += [*add_rms_norm(x, branch, weight, 1e-5), add(x, branch)]
    return draw.with_gradients(outputs, [x, weight, bias])


@NORM.work_of_a_run
def _work(draw: Draw, of: Workload) -> Work:
    shape = of.samples, of.positions, of.hidden
    x, branch = (draw.large(dtype, *shape) for dtype in (of.weight_dtype, of.compute_dtype))
    parameters = [
        draw.large(of.weight_dtype, of.hidden) for _ in range(1 + (of.norm == "layer_norm"))
    ]
    return draw.work(lambda x, y, *rest: [*norm(x, y, 1e-5, *rest)], x, branch, *parameters)
