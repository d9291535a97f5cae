"""The precision that products are computed in.

With float32 weights and a lower compute dtype (`fp16_opt_level` O1), `ops.linear` and
`ops.attention` round their operands to that dtype. With weights in a lower dtype (O2) their inputs
are already in it. Norms, softmax, rotary embedding and the loss compute in float32 throughout.
"""

from __future__ import annotations

from collections.abc import Callable

import paddle
from paddle import Tensor

LOW = {"bfloat16": paddle.bfloat16, "float16": paddle.float16}
"""The dtypes of 16 bits, by name."""
_compute_dtype: paddle.dtype | None = None


def set_compute_dtype(name: str) -> None:
    """Compute products in "float32" (as they come), "bfloat16" or "float16"."""
    global _compute_dtype
    assert name == "float32" or name in LOW, name
    _compute_dtype = LOW.get(name)


def operand_dtype(x: Tensor) -> paddle.dtype:
    """The dtype that `x` has as an operand of a product."""
    return x.dtype if _compute_dtype is None else _compute_dtype


def to_compute_dtype(x: Tensor) -> Tensor:
    """`x` as an operand of a product."""
    if _compute_dtype is None or x.dtype == _compute_dtype:
        return x
    return x.astype(_compute_dtype)


def in_float32_on_cpu(operator: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """`operator(*operands)`, of operands that all have one dtype.

    Paddle's CPU kernels for bfloat16 and float16 are few and have no products. There the operator
    computes in float32 and its result is rounded, so that every precision runs on a laptop.
    """
    dtype = operands[0].dtype
    if dtype in LOW.values() and operands[0].place.is_cpu_place():
        return operator(*(operand.astype("float32") for operand in operands)).astype(dtype)
    return operator(*operands)
