"""Linear maps."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor
from paddle.nn import functional as F

from llm_pretrain.ops import dispatch
from llm_pretrain.ops.native import linear as native
from llm_pretrain.ops.precision import in_float32_on_cpu, operand_dtype, to_compute_dtype


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


def linears(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    transposed: bool = False,
) -> list[Tensor]:
    """Several linear maps of one input, each as `linear`."""
    dtype = operand_dtype(x)
    if dtype != paddle.float16 and dispatch.is_native("linear", x, *weights, *biases):
        return native.linears(x, weights, biases, dtype, transposed=transposed)
    return [
        _reference(x, weight.T if transposed else weight, bias)
        for weight, bias in zip(weights, biases, strict=True)
    ]


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    operands = [to_compute_dtype(operand) for operand in (x, weight, bias) if operand is not None]
    return in_float32_on_cpu(F.linear, *operands)
