"""Linear maps, and tables of vectors."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor
from paddle.nn import functional as F

from llm_pretrain.ops.native import linear as native
from llm_pretrain.ops.operator import Draw, Operator, in_float32_on_cpu, to_compute_dtype

LINEAR = Operator("linear", cpp=native)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, transposed: bool = False
) -> Tensor:
    """x W + b, in the compute dtype.

    Args:
        x: [..., in].
        weight: [in, out], or [out, in] if `transposed`.
        bias: [out].

    Returns:
        [..., out].
    """
    return linears(x, [weight], [bias], transposed=transposed)[0]


@LINEAR.reference
def linears(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    transposed: bool = False,
) -> list[Tensor]:
    """Several linear maps of one input, each as `linear`."""
    return [
        _reference(x, weight.T if transposed else weight, bias)
        for weight, bias in zip(weights, biases, strict=True)
    ]


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    operands = [to_compute_dtype(operand) for operand in (x, weight, bias) if operand is not None]
    return in_float32_on_cpu(F.linear, *operands)


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
