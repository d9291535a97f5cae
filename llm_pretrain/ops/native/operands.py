"""Operands of products: weights, packed once a step where that pays, and inputs, recomputed.

Between `hold_weights` and `drop_weights` a weight is taken not to change: what is made of it at the
first product serves all micro-batches. Outside, each product makes its own, of a weight in float32
in the same way, since it is rounded anyway. Products in float32 read weights as they lie and pack
parts of them in the cache: of a weight that would take 6 bytes a number.

Norms and activations cost little beside the products that follow them, and their inputs are kept
anyway: for the backward pass a product keeps how its input is computed again in place of the input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import Tensor

from llm_pretrain.ops.native.library import WeightOrder, call, cast, declare, empty, threads
from llm_pretrain.ops.native.library import packed as without_gaps

declare(packed_bytes="nnnp", pack="nnnpiip")

Operand = tuple[Tensor, WeightOrder]

_held: dict[tuple[Any, ...], Operand] | None = None


def hold_weights() -> None:
    """From now on weights don't change, nor does their memory move."""
    global _held
    _held = {}


def drop_weights() -> None:
    """Weights may change again; what was made of them is freed."""
    global _held
    _held = None


def operand_of(weight: Tensor, dtype: paddle.dtype, rows: int, *, transposed: bool) -> Operand:
    """What a product of `rows` rows in `dtype` reads: of a weight [k, n], or [n, k] transposed."""
    if dtype != paddle.bfloat16:
        return _as_it_lies(weight, dtype, transposed=transposed)
    if _held is None or not weight.is_leaf:
        # What is computed from a weight has memory that others may have after it.
        if weight.dtype == dtype:
            return _as_it_lies(weight, dtype, transposed=transposed)
        return _packed(weight, rows, transposed=transposed)
    # The order depends on the threads that will read it.
    key = weight.data_ptr(), tuple(weight.shape), rows, transposed, threads()
    if key not in _held:
        _held[key] = _packed(weight, rows, transposed=transposed)
    return _held[key]


def _as_it_lies(weight: Tensor, dtype: paddle.dtype, *, transposed: bool) -> Operand:
    return cast(weight, dtype), WeightOrder.TRANSPOSED if transposed else WeightOrder.PLAIN


def _packed(weight: Tensor, rows: int, *, transposed: bool) -> Operand:
    k, n = reversed(weight.shape) if transposed else weight.shape
    size = np.zeros(1, np.int64)
    call("packed_bytes", rows, n, k, size)
    if not size[0]:
        return _as_it_lies(weight, paddle.bfloat16, transposed=transposed)
    packed = empty([int(size[0]) // 2], paddle.bfloat16)
    call("pack", rows, n, k, without_gaps(weight), weight.dtype, transposed, packed)
    return packed, WeightOrder.PACKED


class RecomputedOperand(NamedTuple):
    """`compute(*operands)` gives the tensor's values again."""

    compute: Callable[..., Tensor]
    operands: tuple[Tensor, ...]


def recomputed(y: Tensor, compute: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """`y`, which products need not keep."""
    y.recomputed_operand = RecomputedOperand(compute, operands)
    return y


def recomputation_of(x: Tensor) -> RecomputedOperand | None:
    """How to compute `x` again, where that is cheaper than to keep it."""
    found: RecomputedOperand | None = getattr(x, "recomputed_operand", None)
    return found
