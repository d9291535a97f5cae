"""The head and its loss in C++; see `ops.linear_cross_entropy`."""

from __future__ import annotations

import paddle
from paddle import Tensor

from llm_pretrain.ops.native.library import call, declare, empty, expect, packed, serves

declare(linear_log_sums="nnnpipinipppp", linear_cross_entropy_backward="nnnpipinipppppi")


def serves_head(x: Tensor, weight: Tensor) -> bool:
    """`ops.serves_head`."""
    return serves(x, weight) or NotImplemented


def linear_log_sums(
    x_RH: Tensor, weight: Tensor, labels_R: Tensor, *, vocabulary: int, transposed: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """`ops.linear_log_sums`."""
    if not vocabulary or not serves(x_RH, weight):
        return NotImplemented
    _expect_head(x_RH, weight, labels_R, vocabulary, transposed=transposed)
    x_RH, weight = packed(x_RH), packed(weight)
    largest, total, target = (empty([x_RH.shape[0]], paddle.float32) for _ in range(3))
    call("linear_log_sums", *x_RH.shape, vocabulary, x_RH, x_RH.dtype, weight, weight.dtype,
         weight.shape[1], transposed, packed(labels_R), largest, total, target)  # fmt: skip
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
    """`ops.linear_cross_entropy_gradients`."""
    if not vocabulary or not serves(x_RH, weight):
        return NotImplemented
    _expect_head(x_RH, weight, labels_R, vocabulary, transposed=transposed)
    expect("log_sums", log_sums_R, labels_R.shape, paddle.float32)
    expect("factors", factors_R, labels_R.shape, paddle.float32)
    expect("dweight", dweight, weight.shape, paddle.float32)
    if dweight is not None and not accumulate and vocabulary < dweight.shape[not transposed]:
        dweight.zero_()  # what the padding's columns have
        accumulate = True
    x_RH, weight = packed(x_RH), packed(weight)
    dx_RH = empty(x_RH.shape, paddle.float32)
    call("linear_cross_entropy_backward", *x_RH.shape, vocabulary, x_RH, x_RH.dtype, weight,
         weight.dtype, weight.shape[1], transposed, packed(labels_R), packed(log_sums_R),
         packed(factors_R), dx_RH, dweight, accumulate)  # fmt: skip
    return dx_RH


def _expect_head(
    x_RH: Tensor, weight: Tensor, labels_R: Tensor, vocabulary: int, *, transposed: bool
) -> None:
    R, H = x_RH.shape
    columns = weight.shape[0 if transposed else 1]
    expect("weight", weight, [columns, H] if transposed else [H, columns])
    expect("labels", labels_R, [R], paddle.int64)
    if vocabulary > columns:
        raise ValueError(f"a vocabulary of {vocabulary} where the weight has {columns} columns")
