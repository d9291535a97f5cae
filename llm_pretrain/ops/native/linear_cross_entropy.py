"""The head and its loss in C++; see `ops.linear_cross_entropy`."""

from __future__ import annotations

import paddle
from paddle import Tensor

from llm_pretrain.ops.native.library import call, packed


def linear_log_sums(
    x_RH: Tensor, weight: Tensor, labels_R: Tensor, vocabulary: int, *, transposed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """max(z), sum(exp(z - max(z))) and z[label], float32 [R] each."""
    x_RH, weight = packed(x_RH), packed(weight)
    largest, total, target = (paddle.empty([x_RH.shape[0]], "float32") for _ in range(3))
    call("linear_log_sums", *x_RH.shape, vocabulary, x_RH, x_RH.dtype, weight, weight.dtype,
         weight.shape[1], transposed, packed(labels_R), largest, total, target)  # fmt: skip
    return largest, total, target


def gradients(
    x_RH: Tensor,
    weight: Tensor,
    labels_R: Tensor,
    log_sums_R: Tensor,
    factors_R: Tensor,
    vocabulary: int,
    dweight: Tensor | None,
    *,
    transposed: bool,
) -> Tensor:
    """dx, float32 [R, H]; the weight's gradient is added to `dweight`."""
    x_RH, weight = packed(x_RH), packed(weight)
    dx_RH = paddle.empty(x_RH.shape, "float32")
    call("linear_cross_entropy_backward", *x_RH.shape, vocabulary, x_RH, x_RH.dtype, weight,
         weight.dtype, weight.shape[1], transposed, packed(labels_R), packed(log_sums_R),
         packed(factors_R), dx_RH, dweight)  # fmt: skip
    return dx_RH
