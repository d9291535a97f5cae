"""Linear maps, and tables of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from llm_pretrain.ops.gradients import SharedInput, for_trained, note_trained
from llm_pretrain.ops.native import linear as native
from llm_pretrain.ops.operator import Draw, Operator, in_float32_on_cpu, to_compute_dtype

LINEAR = Operator("linear", cpp=native)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    transposed: bool = False,
    shared: SharedInput | None = None,
) -> Tensor:
    """x W + b, in the compute dtype.

    Args:
        x: [..., in].
        weight: [in, out], or [out, in] if `transposed`.
        bias: [out].
        shared: `x` is what this rank has of an input that other ranks need as well.

    Returns:
        [..., out].
    """
    return linears(x, [weight], [bias], transposed=transposed, shared=shared)[0]


@LINEAR.reference
def linears(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    transposed: bool = False,
    shared: SharedInput | None = None,
) -> list[Tensor]:
    """Several linear maps of one input, each as `linear`."""
    if shared is not None:
        given = [bias for bias in biases if bias is not None]
        has_bias = [bias is not None for bias in biases]
        outputs = _SharedLinears.apply(x, shared, transposed, has_bias, *weights, *given)
        return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    return [
        _reference(x, weight, bias, transposed=transposed)
        for weight, bias in zip(weights, biases, strict=True)
    ]


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool) -> Tensor:
    weight = weight.T if transposed else weight
    operands = [to_compute_dtype(operand) for operand in (x, weight, bias) if operand is not None]
    return in_float32_on_cpu(F.linear, *operands)


class _SharedLinears(PyLayer):
    """The input's gradient is summed over the ranks while the weights' are computed."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shared: SharedInput,
        transposed: bool,
        has_bias: list[bool],
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        note_trained(ctx, x, *parameters)
        weights, given = parameters[: len(has_bias)], parameters[len(has_bias) :]
        operand = to_compute_dtype(shared.gather(x))
        ctx.save_for_backward(operand)
        # Weights are not saved, for recompute would bring copies, which don't follow when a
        # bucket frees and gathers its weights.
        ctx.weights = weights
        ctx.shared, ctx.transposed, ctx.has_bias = shared, transposed, has_bias
        ctx.x_dtype, ctx.bias_dtypes = x.dtype, [bias.dtype for bias in given]
        biases = iter(given)
        return tuple(
            _reference(operand, weight, next(biases) if biased else None, transposed=transposed)
            for weight, biased in zip(weights, has_bias, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        (operand,) = ctx.saved_tensor()
        x_trained, *trained = ctx.trained
        arriving = None
        if x_trained:
            dx = None
            for dy, weight in zip(dys, ctx.weights, strict=True):
                turned = partial(paddle.matmul, transpose_y=not ctx.transposed)
                part = in_float32_on_cpu(turned, dy, to_compute_dtype(weight))
                dx = part if dx is None else in_float32_on_cpu(paddle.add, dx, part)
            assert dx is not None
            arriving = ctx.shared.start_sum(dx.astype(ctx.x_dtype))
        x_RI = operand.reshape([-1, operand.shape[-1]])
        dys_RO = [dy.reshape([-1, dy.shape[-1]]) for dy in dys]
        dweights: list[Tensor | None] = []
        for dy_RO, weight, is_trained in zip(dys_RO, ctx.weights, trained, strict=False):
            left, right = (dy_RO, x_RI) if ctx.transposed else (x_RI, dy_RO)
            product = partial(paddle.matmul, transpose_x=True)
            dweight = in_float32_on_cpu(product, left, right) if is_trained else None
            dweights.append(None if dweight is None else dweight.astype(weight.dtype))
        biased = [dy for dy, has_bias in zip(dys_RO, ctx.has_bias, strict=True) if has_bias]
        dbiases = [
            in_float32_on_cpu(partial(paddle.sum, axis=0), dy).astype(dtype)
            for dy, dtype in zip(biased, ctx.bias_dtypes, strict=True)
        ]
        dx = None if arriving is None else arriving.wait()
        return for_trained(ctx, dx, *dweights, *dbiases)


@LINEAR.self_test
def _example(draw: Draw) -> list[Tensor]:
    x, weights = draw(2, 5, 24), [draw(24, 32), draw(24, 8)]
    bias = draw(8)
    # Large products take other ways than small ones.
    large, weight = draw(304, 320), draw(320, 336)
    outputs = [*linears(x, weights, [None, bias]), *linears(large, [weight], [None])]
    return draw.with_gradients(outputs, [x, *weights, bias, large, weight])


EMBEDDING = Operator("embedding", cpp=native)


@EMBEDDING.reference
def embedding(ids: Tensor, table: Tensor) -> Tensor:
    """The rows of `table` that `ids` name.

    Args:
        ids: integers [...].
        table: [V, H].

    Returns:
        [..., H].
    """
    return F.embedding(ids, table)


@EMBEDDING.self_test
def _embedding_example(draw: Draw) -> list[Tensor]:
    table = draw(9, 16)
    y = embedding(paddle.to_tensor([[1, 8, 1], [0, 1, 3]]), table)
    return draw.with_gradients([y], [table])
