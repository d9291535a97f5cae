"""Weights rounded for products, once per optimizer step.

Between `hold` and `drop` a weight is taken not to change: its copy is made at the first product
and serves forward and backward pass of all micro-batches. Outside each product makes its own.
"""

from __future__ import annotations

import paddle
from paddle import Tensor

from llm_pretrain.ops.native.library import cast

_held: dict[tuple[int, tuple[int, ...]], Tensor] | None = None


def hold() -> None:
    """From now on weights don't change, nor does their memory move."""
    global _held
    _held = {}


def drop() -> None:
    """Weights may change again; the copies are freed."""
    global _held
    _held = None


def of(weight: Tensor, dtype: paddle.dtype) -> Tensor:
    """`weight` in `dtype`."""
    if weight.dtype == dtype or _held is None or not weight.is_leaf:
        # What is computed from a weight has memory that others may have after it.
        return cast(weight, dtype)
    key = weight.data_ptr(), tuple(weight.shape)
    if key not in _held:
        _held[key] = cast(weight, dtype)
    return _held[key]
