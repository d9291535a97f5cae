"""The head's loss in CUDA: Paddle multiplies by a slice of the vocabulary, the kernels do the rest.

Shapes: R rows (tokens), H hidden, V entries of a slice.
"""

from __future__ import annotations

from paddle import Tensor

from llm_pretrain.ops.cuda.library import call, serves
from llm_pretrain.ops.vocabulary_slices import gradients_of_slices, logits_of_slices

_IGNORED = -100
"""No label here is that: a row without loss has the factor 0 instead."""


def serves_head(x: Tensor, weight: Tensor) -> bool:
    """`ops.serves_head`."""
    return serves(x, weight) or NotImplemented


def linear_log_sums(
    x_RH: Tensor, weight: Tensor, labels_R: Tensor, *, vocabulary: int, transposed: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """`ops.linear_log_sums`."""
    if not serves(x_RH, weight):
        return NotImplemented
    largest, total, target = statistics = call("cross_entropy_begin", labels_R)
    for logits_RV, begin in logits_of_slices(x_RH, weight, vocabulary, transposed=transposed):
        call("cross_entropy_add", logits_RV, labels_R, *statistics, begin)
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
    if not serves(x_RH, weight):
        return NotImplemented

    def to_gradients(logits_RV: Tensor, begin: int) -> Tensor:
        operands = logits_RV, labels_R, log_sums_R, factors_R
        call("cross_entropy_backward", *operands, begin, _IGNORED)  # in place
        return logits_RV

    return gradients_of_slices(
        *(to_gradients, x_RH, weight, vocabulary),
        transposed=transposed,
        dweight=dweight,
        accumulate=accumulate,
    )
