"""A linear map."""

from __future__ import annotations

from paddle import Tensor
from paddle.nn import functional as F

from llm_pretrain.ops.precision import in_float32_on_cpu, to_compute_dtype


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W + b, in the compute dtype.

    Args:
        x: [..., in].
        weight: [in, out].
        bias: [out].

    Returns:
        [..., out].
    """
    operands = [to_compute_dtype(operand) for operand in (x, weight, bias) if operand is not None]
    return in_float32_on_cpu(F.linear, *operands)
