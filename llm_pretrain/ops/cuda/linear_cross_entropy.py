"""The loss of logits that come a chunk of the vocabulary at a time, in CUDA.

Shapes: R rows (tokens), V entries of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterable

from paddle import Tensor

from llm_pretrain.ops.cuda.library import call

_IGNORED = -100
"""No label here is that: a row without loss has the factor 0 instead."""


def log_sums(
    chunks: Iterable[tuple[Tensor, int]], labels_R: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """max(z), sum(exp(z - max(z))) and z[label], float32 [R] each.

    Args:
        chunks: logits [R, V] and the number of their first entry.
        labels_R: int64; -1 for none.
    """
    statistics = call("cross_entropy_begin", labels_R)
    for logits_RV, begin in chunks:
        call("cross_entropy_add", logits_RV, labels_R, *statistics, begin)
    largest, total, target = statistics
    return largest, total, target


def to_gradients_(
    logits_RV: Tensor, labels_R: Tensor, log_sums_R: Tensor, factors_R: Tensor, begin: int
) -> None:
    """Logits of a chunk become factor · (exp(z - log_sum) - [entry is the label]), in place."""
    call("cross_entropy_backward", logits_RV, labels_R, log_sums_R, factors_R, begin, _IGNORED)
