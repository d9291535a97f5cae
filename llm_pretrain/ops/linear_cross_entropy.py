"""The head and its loss in chunks of the vocabulary, so that the logits are never in memory whole.

Forward goes through the vocabulary once for what the softmax needs of each row; backward once more
for the gradients, from logits that are computed again.

Shapes: R rows (tokens), H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import paddle
from paddle import Tensor
from paddle.nn import functional as F

from llm_pretrain.ops import dispatch
from llm_pretrain.ops.cuda import linear_cross_entropy as cuda
from llm_pretrain.ops.native import linear_cross_entropy as native
from llm_pretrain.ops.precision import in_float32_on_cpu

_LOGITS = 1 << 24
"""About how many are computed at a time."""


def head_is_native(x: Tensor, weight: Tensor) -> bool:
    """Whether C++ or CUDA serves the head."""
    return _is_cpp(x, weight) or dispatch.is_cuda("linear_cross_entropy", x, weight)


def _is_cpp(x: Tensor, weight: Tensor) -> bool:
    return dispatch.is_native("linear_cross_entropy", x, weight)


def linear_log_sums(
    x_RH: Tensor, weight: Tensor, labels_R: Tensor, *, vocabulary: int, transposed: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """What cross entropy needs of the logits z = x W.

    Args:
        x_RH: in the compute dtype.
        weight: [H, V], or [V, H] if `transposed`; what stands beyond `vocabulary` is left out.
        labels_R: int64; -1 for none.

    Returns:
        max(z), sum(exp(z - max(z))) and z[label] (0 without label), float32 [R] each.
    """
    if vocabulary and _is_cpp(x_RH, weight):
        return native.linear_log_sums(x_RH, weight, labels_R, vocabulary, transposed=transposed)
    parts = _chunks(x_RH, weight, vocabulary, transposed=transposed)
    chunks = ((_logits(x_RH, part), begin) for part, begin in parts)
    if dispatch.is_cuda("linear_cross_entropy", x_RH, weight):
        return cuda.log_sums(chunks, labels_R)
    return _log_sums(chunks, labels_R)


def _log_sums(
    chunks: Iterable[tuple[Tensor, int]], labels_R: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    largest = paddle.full(labels_R.shape, -float("inf"), "float32")
    total, target = paddle.zeros_like(largest), paddle.zeros_like(largest)
    for logits_RV, begin in chunks:
        z_RV = logits_RV.astype("float32")
        bound = paddle.maximum(largest, z_RV.max(-1))
        total = total * (largest - bound).exp() + (z_RV - bound.unsqueeze(-1)).exp().sum(-1)
        largest = bound
        target += (z_RV * _is_label(labels_R - begin, z_RV)).sum(-1)
    return largest, total, target


def linear_cross_entropy_gradients(
    x_RH: Tensor,
    weight: Tensor,
    labels_R: Tensor,
    log_sums_R: Tensor,
    factors_R: Tensor,
    *,
    vocabulary: int,
    transposed: bool = False,
    dweight: Tensor | None,
    accumulate: bool = False,
) -> Tensor:
    """With dz = factor · (exp(z - log_sum) - [column is the label]): dx = dz Wᵀ, float32 [R, H].

    xᵀ dz goes into `dweight`, float32 and laid out as `weight`, where it is given; it is added to
    what is there if `accumulate`.
    """
    if dweight is not None and not accumulate:
        has_padding = vocabulary < dweight.shape[0 if transposed else 1]
        if has_padding or not (vocabulary and _is_cpp(x_RH, weight)):
            dweight.zero_()
            accumulate = True
    operands = x_RH, weight, labels_R, log_sums_R, factors_R
    if vocabulary and _is_cpp(x_RH, weight):
        return native.gradients(
            *operands, vocabulary, dweight, transposed=transposed, accumulate=accumulate
        )
    dx_RH = paddle.zeros(x_RH.shape, "float32")
    for part, begin in _chunks(x_RH, weight, vocabulary, transposed=transposed):
        dz = _logits(x_RH, part)
        if dispatch.is_cuda("linear_cross_entropy", x_RH, weight):
            cuda.to_gradients_(dz, labels_R, log_sums_R, factors_R, begin)
        else:
            dz = _gradients(dz, labels_R - begin, log_sums_R, factors_R)
        dx = in_float32_on_cpu(lambda a, b: paddle.matmul(a, b, transpose_y=True), dz, part)
        dx_RH += dx.astype("float32")
        if dweight is not None:
            _add_columns(dweight, begin, x_RH, dz, transposed=transposed)
    return dx_RH


def _chunks(
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


def _gradients(
    logits_RV: Tensor, labels_R: Tensor, log_sums_R: Tensor, factors_R: Tensor
) -> Tensor:
    """dz of a chunk, in the dtype of the logits."""
    z_RV = logits_RV.astype("float32")
    softmax = (z_RV - log_sums_R.unsqueeze(-1)).exp_()
    dz = softmax.subtract_(_is_label(labels_R, z_RV))
    return dz.multiply_(factors_R.unsqueeze(-1)).astype(logits_RV.dtype)


def _is_label(labels_R: Tensor, z_RV: Tensor) -> Tensor:
    """1 in the column of each row's label, float32; labels outside are in none."""
    width = z_RV.shape[-1]
    inside = (labels_R >= 0) & (labels_R < width)
    columns = F.one_hot(paddle.where(inside, labels_R, paddle.zeros_like(labels_R)), width)
    return columns * inside.astype("float32").unsqueeze(-1)


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
