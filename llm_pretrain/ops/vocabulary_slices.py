"""The logits of a head and their gradients, a slice of the vocabulary at a time.

Shapes: R rows (tokens), H hidden, V entries of a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import paddle
from paddle import Tensor

from llm_pretrain.ops.operator import in_float32_on_cpu

_LOGITS = 1 << 24
"""About how many are computed at a time."""


def logits_of_slices(
    x_RH: Tensor, weight: Tensor, vocabulary: int, *, transposed: bool
) -> Iterator[tuple[Tensor, int]]:
    """Logits [R, V] in the dtype of `x`, and the number of the first entry."""
    for part_HV, begin in _slices(x_RH, weight, vocabulary, transposed=transposed):
        yield _logits(x_RH, part_HV), begin


def gradients_of_slices(
    to_gradients: Callable[[Tensor, int], Tensor],
    x_RH: Tensor,
    weight: Tensor,
    vocabulary: int,
    *,
    transposed: bool,
    dweight: Tensor | None,
    accumulate: bool,
) -> Tensor:
    """`ops.linear_cross_entropy_gradients`.

    Args:
        to_gradients: makes of a slice's logits, which it may overwrite, and of the number of its
            first entry the logits' gradients, in their dtype.
    """
    if dweight is not None and not accumulate:
        dweight.zero_()
    dx_RH = paddle.zeros(x_RH.shape, "float32")
    for part_HV, begin in _slices(x_RH, weight, vocabulary, transposed=transposed):
        dz_RV = to_gradients(_logits(x_RH, part_HV), begin)
        dx = in_float32_on_cpu(lambda a, b: paddle.matmul(a, b, transpose_y=True), dz_RV, part_HV)
        dx_RH += dx.astype("float32")
        if dweight is not None:
            _add_columns(dweight, begin, x_RH, dz_RV, transposed=transposed)
    return dx_RH


def _slices(
    x_RH: Tensor, weight: Tensor, vocabulary: int, *, transposed: bool
) -> Iterator[tuple[Tensor, int]]:
    """Columns of the weight, [H, V] in the dtype of `x`, and the number of the first."""
    count = max(_LOGITS // max(x_RH.shape[0], 1), 256)
    for begin in range(0, vocabulary, count):
        columns = slice(begin, min(begin + count, vocabulary))
        part = weight[columns].T if transposed else weight[:, columns]
        yield part.astype(x_RH.dtype), begin


def _logits(x_RH: Tensor, weight_HV: Tensor) -> Tensor:
    return in_float32_on_cpu(paddle.matmul, x_RH, weight_HV)


def _add_columns(
    dweight: Tensor, begin: int, x_RH: Tensor, dz_RV: Tensor, *, transposed: bool
) -> None:
    columns = slice(begin, begin + dz_RV.shape[-1])
    left, right = (dz_RV, x_RH) if transposed else (x_RH, dz_RV)
    product = in_float32_on_cpu(lambda a, b: paddle.matmul(a, b, transpose_x=True), left, right)
    place = dweight[columns] if transposed else dweight[:, columns]
    total = place + product.astype("float32")
    if transposed:
        dweight[columns] = total
    else:
        dweight[:, columns] = total
