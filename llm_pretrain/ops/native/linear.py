"""Linear maps by oneDNN, and tables of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from llm_pretrain.ops.gradients import SharedInput, for_trained, note_trained, sum_of_gradients
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
    shared: SharedInput | None = None,
) -> list[Tensor]:
    """`ops.linears`."""
    dtype = operand_dtype(x)
    if dtype == paddle.float16 or not serves(x, *weights, *biases):
        return NotImplemented
    given = [bias for bias in biases if bias is not None]
    has_bias = [bias is not None for bias in biases]
    outputs = _Linears.apply(x, dtype, transposed, shared, has_bias, *weights, *given)
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


class _Linears(PyLayer):
    """dx = sum of dy Wᵀ;  dW = xᵀ dy;  db = sum of the rows of dy."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dtype: paddle.dtype,
        transposed: bool,
        shared: SharedInput | None,
        has_bias: list[bool],
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        note_trained(ctx, x, *parameters)
        weights, given = parameters[: len(has_bias)], iter(parameters[len(has_bias) :])
        whole = x if shared is None else shared.gather(x)
        operand, again = cast(whole, dtype), recomputation_of(whole)
        kept = (operand,) if again is None else again.operands
        # Not saved as the rest: recompute would bring copies of them, to whose gradients no sum is
        # offered, and whose values are others where a weight is some columns of a larger one.
        ctx.weights = weights
        ctx.save_for_backward(*kept)
        ctx.compute = None if again is None else again.compute
        ctx.shared = shared
        ctx.dtype, ctx.x_dtype, ctx.transposed, ctx.has_bias = dtype, x.dtype, transposed, has_bias
        ctx.bias_dtypes = [bias.dtype for bias in parameters[len(has_bias) :]]
        outputs = []
        for weight, biased in zip(weights, has_bias, strict=True):
            bias = cast(next(given), paddle.float32) if biased else None
            outputs.append(_product(operand, weight, bias, transposed=transposed))
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        weights = ctx.weights
        x_trained, *weights_trained = ctx.trained[: 1 + len(weights)]
        dys = tuple(cast(dy, ctx.dtype) for dy in dys)
        rows = count(dys[0]) // dys[0].shape[-1]
        dx = arriving = None
        if x_trained:
            dx = _input_gradient(ctx, dys, rows)
        if dx is not None and ctx.shared is not None:
            arriving = ctx.shared.start_sum(dx)
        kept = ctx.saved_tensor()
        operand = kept[0] if ctx.compute is None else cast(ctx.compute(*kept), ctx.dtype)
        dweights: list[Tensor | None] = []
        dbiases: list[Tensor] = []
        for number, (dy, weight) in enumerate(zip(dys, weights, strict=True)):
            dweight = None
            if weights_trained[number]:
                left, right = (dy, operand) if ctx.transposed else (operand, dy)
                total = sum_of_gradients(weight)
                place, has_values = total or (
                    empty(weight.shape, _result_dtype(operand.dtype, weight.dtype)),
                    False,
                )
                call("matmul", left.shape[-1], right.shape[-1], rows, left, 1, right, 0,
                     operand.dtype, None, place, place.dtype, has_values)  # fmt: skip
                dweight = cast(place, weight.dtype) if total is None else None
            dweights.append(dweight)
            if ctx.has_bias[number]:
                dbias = cast(dy, paddle.float32).reshape([rows, dy.shape[-1]]).sum(0)
                dbiases.append(dbias.astype(ctx.bias_dtypes[len(dbiases)]))
        if arriving is not None:
            dx = arriving.wait()
        return for_trained(ctx, dx, *dweights, *dbiases)


def _input_gradient(ctx: Any, dys: Sequence[Tensor], rows: int) -> Tensor:
    inputs = ctx.weights[0].shape[1 if ctx.transposed else 0]
    # Several products are summed in float32.
    is_single = len(dys) == 1
    dtype = _result_dtype(ctx.dtype, ctx.x_dtype) if is_single else paddle.float32
    dx = empty([*dys[0].shape[:-1], inputs], dtype)
    for number, (dy, weight) in enumerate(zip(dys, ctx.weights, strict=True)):
        # dy [rows, outputs] by Wᵀ [outputs, inputs], stored as W.
        turned = operand_of(weight, ctx.dtype, rows, transposed=not ctx.transposed)
        call("matmul", rows, inputs, dy.shape[-1], dy, 0, *turned, ctx.dtype, None, dx,
             dx.dtype, number > 0)  # fmt: skip
    return cast(dx, ctx.x_dtype)


def _result_dtype(operands: paddle.dtype, wanted: paddle.dtype) -> paddle.dtype:
    """That in which a product is written, to be cast after it: float32, or the operands' own."""
    return wanted if wanted == operands else paddle.float32


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
