"""Attention over heads and positions that the ranks share."""

from __future__ import annotations

import numpy as np
from paddle import Tensor

from llm_pretrain import ops
from llm_pretrain.ops import random_bits
from llm_pretrain.parallel.heads import LocalHeads
from llm_pretrain.parallel.micro_batch import Sequences


def attention(
    q_BSND: Tensor,
    k_BSKD: Tensor,
    v_BSKD: Tensor,
    sequences: Sequences,
    heads: LocalHeads,
    *,
    dropout: float,
    place: str,
) -> Tensor:
    """Causal `ops.attention` of this rank's heads and positions.

    Args:
        q_BSND: queries of this rank's positions and heads.
        k_BSKD, v_BSKD: keys and values of its positions and of the heads that its queries need.
        dropout: of the probabilities; 0 when not training.
        place: the layer's name, which chooses what dropout leaves out.

    Returns:
        [B, S, N, D].
    """
    rows_BNS = None
    if dropout:
        rows_BS = sequences.random_rows(place, sequences.positions)
        numbers_N = heads.first_query + np.arange(heads.queries)
        rows_BNS = random_bits.rows_of_heads(rows_BS, numbers_N)
    if heads.key_of_query is not None:
        k_BSKD, v_BSKD = (ops.take_heads(x, heads.key_of_query) for x in (k_BSKD, v_BSKD))
    return ops.attention(q_BSND, k_BSKD, v_BSKD, causal=True, dropout=dropout, rows_BNS=rows_BNS)
