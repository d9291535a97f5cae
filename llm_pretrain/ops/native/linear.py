"""Linear maps by oneDNN, and tables of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from llm_pretrain.ops.gradients import for_trained, note_trained, sum_of_gradients
from llm_pretrain.ops.native.library import (
    call,
    cast,
    count,
    declare,
    empty,
    expect,
    packed,
    serves,
)
from llm_pretrain.ops.native.operands import operand_of, recomputation_of
from llm_pretrain.ops.operator import operand_dtype

declare(matmul="nnnpipiippii", embedding_backward="nnnppipii")


def linears(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    transposed: bool = False,
) -> list[Tensor]:
    """`ops.linears`."""
    dtype = operand_dtype(x)
    if dtype == paddle.float16 or not serves(x, *weights, *biases):
        return NotImplemented
    given = [bias for bias in biases if bias is not None]
    has_bias = [bias is not None for bias in biases]
    outputs = _Linears.apply(x, dtype, transposed, has_bias, *weights, *given)
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


class _Linears(PyLayer):
    """dx = sum of dy Wᵀ;  dW = xᵀ dy;  db = sum of the rows of dy."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dtype: paddle.dtype,
        transposed: bool,
        has_bias: list[bool],
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        note_trained(ctx, x, *parameters)
        weights, given = parameters[: len(has_bias)], iter(parameters[len(has_bias) :])
        operand, again = cast(x, dtype), recomputation_of(x)
        kept = (operand,) if again is None else again.operands
        # Not saved as the rest: recompute would bring copies of them, to whose gradients no sum is
        # offered, and whose values are others where a weight is some columns of a larger one.
        ctx.weights = weights
        ctx.save_for_backward(*kept)
        ctx.compute = None if again is None else again.compute
        ctx.dtype, ctx.x_dtype, ctx.transposed, ctx.has_bias = dtype, x.dtype, transposed, has_bias
        ctx.bias_dtypes = [bias.dtype for bias in parameters[len(has_bias) :]]
        outputs = []
        for weight, biased in zip(weights, has_bias, strict=True):
            bias = cast(next(given), paddle.float32) if biased else None
            outputs.append(_product(operand, weight, bias, transposed=transposed))
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        kept, weights = ctx.saved_tensor(), ctx.weights
        operand = kept[0] if ctx.compute is None else cast(ctx.compute(*kept), ctx.dtype)
        x_trained, *weights_trained = ctx.trained[: 1 + len(weights)]
        inputs = operand.shape[-1]
        rows = count(operand) // inputs
        # Several products are summed in float32.
        dx_dtype = _result_dtype(operand, ctx.x_dtype) if len(weights) == 1 else paddle.float32
        dx = empty(operand.shape, dx_dtype) if x_trained else None
        dweights: list[Tensor | None] = []
        dbiases: list[Tensor] = []
        for number, (dy, weight) in enumerate(zip(dys, weights, strict=True)):
            dy = cast(dy, operand.dtype)
            outputs = dy.shape[-1]
            if dx is not None:
                # dy [rows, outputs] by Wᵀ [outputs, inputs], stored as W.
                turned = operand_of(weight, operand.dtype, rows, transposed=not ctx.transposed)
                call("matmul", rows, inputs, outputs, dy, 0, *turned, operand.dtype, None, dx,
                     dx.dtype, number > 0)  # fmt: skip
            dweight = None
            if weights_trained[number]:
                left, right = (dy, operand) if ctx.transposed else (operand, dy)
                total = sum_of_gradients(weight)
                place, has_values = total or (
                    empty(weight.shape, _result_dtype(operand, weight.dtype)),
                    False,
                )
                call("matmul", left.shape[-1], right.shape[-1], rows, left, 1, right, 0,
                     operand.dtype, None, place, place.dtype, has_values)  # fmt: skip
                dweight = cast(place, weight.dtype) if total is None else None
            dweights.append(dweight)
            if ctx.has_bias[number]:
                dbias = cast(dy, paddle.float32).reshape([rows, outputs]).sum(0)
                dbiases.append(dbias.astype(ctx.bias_dtypes[len(dbiases)]))
        if dx is not None:
            dx = cast(dx, ctx.x_dtype)
        return for_trained(ctx, dx, *dweights, *dbiases)


def _result_dtype(operand: Tensor, wanted: paddle.dtype) -> paddle.dtype:
    """That in which a product is written, to be cast after it: float32, or the operands' own."""
    return wanted if wanted == operand.dtype else paddle.float32


def _product(operand: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool) -> Tensor:
    inputs = operand.shape[-1]
    outputs = weight.shape[0] if transposed else weight.shape[1]
    expect("weight", weight, [outputs, inputs] if transposed else [inputs, outputs])
    expect("bias", bias, [outputs])
    y = empty([*operand.shape[:-1], outputs], operand.dtype)
    rows = count(operand) // inputs
    read = operand_of(weight, operand.dtype, rows, transposed=transposed)
    call("matmul", rows, outputs, inputs, operand, 0, *read, operand.dtype, bias, y, y.dtype, 0)
    return y


def embedding(ids: Tensor, table: Tensor) -> Tensor:
    """`ops.embedding`."""
    return _Embedding.apply(ids, table) if ids.size and serves(table) else NotImplemented


class _Embedding(PyLayer):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(ids, table)
        return F.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        ids, table = ctx.saved_tensor()
        if table.stop_gradient:
            return None, None
        total = sum_of_gradients(table)
        dtable, has_values = total or (empty(table.shape, table.dtype), False)
        call("embedding_backward", ids.size, *table.shape, packed(ids.astype("int64")), packed(dy),
             dy.dtype, dtable, dtable.dtype, has_values)  # fmt: skip
        return None, dtable if total is None else None
