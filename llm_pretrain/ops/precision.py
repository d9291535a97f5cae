"""The precision that products are computed in.

With float32 weights and a lower compute dtype (`fp16_opt_level` O1), `ops.linear` and
`ops.attention` round their operands to that dtype. With weights in a lower dtype (O2) their inputs
are already in it. Norms, softmax, rotary embedding and the loss compute in float32 throughout.
"""

from __future__ import annotations

import paddle
from paddle import Tensor

_LOW = {"bfloat16": paddle.bfloat16, "float16": paddle.float16}
_compute_dtype: paddle.dtype | None = None


def set_compute_dtype(name: str) -> None:
    """Compute products in "float32" (as they come), "bfloat16" or "float16"."""
    global _compute_dtype
    assert name == "float32" or name in _LOW, name
    _compute_dtype = _LOW.get(name)


def to_compute_dtype(x: Tensor) -> Tensor:
    """`x` as an operand of a product."""
    if _compute_dtype is None or x.dtype == _compute_dtype:
        return x
    return x.astype(_compute_dtype)


def is_low(x: Tensor) -> bool:
    """Whether `x` has fewer bits than float32."""
    return x.dtype in _LOW.values()


def matmul(x: Tensor, y: Tensor, *, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """`x @ y`, of two tensors of one dtype.

    Paddle has no low-precision product on CPU: there it multiplies in float32 and rounds.
    """
    if is_low(x) and x.place.is_cpu_place():
        product = paddle.matmul(x.astype("float32"), y.astype("float32"), transpose_x, transpose_y)
        return product.astype(x.dtype)
    return paddle.matmul(x, y, transpose_x, transpose_y)
