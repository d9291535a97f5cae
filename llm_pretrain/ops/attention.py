"""Scaled dot-product attention (Vaswani et al., arXiv:1706.03762)."""

from __future__ import annotations

import math

import paddle
from paddle import Tensor
from paddle.nn import functional as F

from llm_pretrain.ops.precision import matmul, to_compute_dtype


def attention(
    q_BSND: Tensor,
    k_BSKD: Tensor,
    v_BSKD: Tensor,
    *,
    causal: bool = True,
    dropout: float = 0.0,
    training: bool = True,
) -> Tensor:
    """softmax(Q Kᵀ / sqrt(D)) V, with the softmax in float32.

    Args:
        q_BSND: queries [B, S, N, D].
        k_BSKD, v_BSKD: keys and values [B, S, K, D]; each serves N / K consecutive query heads.
        causal: a position sees itself and what stands before it.
        dropout: of the probabilities, while training.

    Returns:
        [B, S, N, D] in the compute dtype.
    """
    q, k, v = (to_compute_dtype(x).transpose([0, 2, 1, 3]) for x in (q_BSND, k_BSKD, v_BSKD))
    group = q.shape[1] // k.shape[1]
    if group > 1:
        k, v = (paddle.repeat_interleave(x, group, axis=1) for x in (k, v))
    scores = matmul(q, k, transpose_y=True).astype("float32") * (1 / math.sqrt(q.shape[-1]))
    if causal:
        length = scores.shape[-1]
        scores = scores + paddle.triu(paddle.full([length, length], -math.inf), 1)
    weights = F.dropout(F.softmax(scores, axis=-1), dropout, training=training)
    return matmul(weights.astype(v.dtype), v).transpose([0, 2, 1, 3])
