"""Attention of a block of queries to a block of keys, and how blocks make up the whole.

Shapes: B batch, K key heads, M the rows of a head (queries of its group, one query head after
another), T keys, D head size. All in float32 or the dtype of the products; log-sum-exp in float32.
"""

from __future__ import annotations

import paddle
from paddle import Tensor
from paddle.nn import functional as F

_SMALLEST = 1e-30
"""Probabilities below are taken for zero."""


def attend(
    q_BKMD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, bias: Tensor | None, kept: Tensor | None
) -> tuple[Tensor, Tensor]:
    """softmax(Q Kᵀ + bias) V of a block, and the log of the softmax's sum.

    Args:
        q_BKMD: scaled queries.
        bias: float32, broadcast to [B, K, M, T].
        kept: float32 [B, K, M, T], what dropout multiplies the probabilities by.

    Returns:
        float32 [B, K, M, D] and [B, K, M, 1].
    """
    scores = _scores(q_BKMD, k_BKTD, bias)
    largest = scores.max(axis=-1, keepdim=True)
    probabilities = F.softmax_(scores, axis=-1)
    # The largest score has the probability exp(largest - log_sum).
    log_sum = largest - probabilities.max(axis=-1, keepdim=True).log()
    if kept is not None:
        probabilities = probabilities.multiply_(kept)
    return paddle.matmul(probabilities.astype(v_BKTD.dtype), v_BKTD).astype("float32"), log_sum


def merge(
    output: Tensor, log_sum: Tensor, block_output: Tensor, block_log_sum: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention to the keys of both, from attention to each (arXiv:2205.14135, section 3.1)."""
    largest = paddle.maximum(log_sum, block_log_sum)
    first, second = (log_sum - largest).exp(), (block_log_sum - largest).exp()
    total = first + second
    return (output * first + block_output * second) / total, largest + total.log()


def attend_backward(
    q_BKMD: Tensor,
    k_BKTD: Tensor,
    v_BKTD: Tensor,
    bias: Tensor | None,
    kept: Tensor | None,
    log_sum: Tensor,
    correction: Tensor,
    do_BKMD: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a block's scaled queries, keys and values, float32.

    With P the probabilities under the whole row's `log_sum`, P' what dropout leaves of them, and
    `correction` = rowsum(dO · O) of the whole row:
    dV = P'ᵀ dO;  dS = P' · (dO Vᵀ) - P · correction;  dQ = dS K;  dK = dSᵀ Q.
    """
    probabilities = _scores(q_BKMD, k_BKTD, bias).subtract_(log_sum).exp_()
    if bias is not None:
        # Of what is hidden exp makes subnormal numbers on CPU; products are 50 times slower then.
        probabilities = F.thresholded_relu_(probabilities, _SMALLEST)
    dprobabilities = paddle.matmul(do_BKMD, v_BKTD, transpose_y=True).astype("float32")
    remaining = probabilities
    if kept is not None:
        remaining = probabilities * kept
        dprobabilities = dprobabilities * kept
    dtype = do_BKMD.dtype
    dv = paddle.matmul(remaining.astype(dtype), do_BKMD, transpose_x=True).astype("float32")
    dscores = dprobabilities.subtract_(correction).multiply_(probabilities).astype(dtype)
    dq = paddle.matmul(dscores, k_BKTD).astype("float32")
    dk = paddle.matmul(dscores, q_BKMD, transpose_x=True).astype("float32")
    return dq, dk, dv


def _scores(q_BKMD: Tensor, k_BKTD: Tensor, bias: Tensor | None) -> Tensor:
    scores = paddle.matmul(q_BKMD, k_BKTD, transpose_y=True).astype("float32")
    return scores if bias is None else scores.add_(bias.expand_as(scores))
