"""A linear map."""

from __future__ import annotations

from paddle import Tensor

from llm_pretrain.ops.precision import matmul, to_compute_dtype


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W + b, in the compute dtype.

    Args:
        x: [..., in].
        weight: [in, out].
        bias: [out].

    Returns:
        [..., out].
    """
    y = matmul(to_compute_dtype(x), to_compute_dtype(weight))
    return y if bias is None else y + bias.astype(y.dtype)
