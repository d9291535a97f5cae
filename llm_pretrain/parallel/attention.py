"""Attention over heads and positions that the ranks share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from paddle import Tensor

from llm_pretrain import ops
from llm_pretrain.ops import random_bits
from llm_pretrain.ops.flash_attention import Rows, blocks_of
from llm_pretrain.ops.mask import Mask
from llm_pretrain.parallel import topology
from llm_pretrain.parallel.head_exchange import to_heads, to_positions
from llm_pretrain.parallel.heads import LocalHeads
from llm_pretrain.parallel.micro_batch import Sequences
from llm_pretrain.parallel.ring_attention import ring_attention


def attention(
    q_BSND: Tensor,
    k_BSKD: Tensor,
    v_BSKD: Tensor,
    sequences: Sequences,
    heads: LocalHeads,
    *,
    slopes: NDArray[np.float32] | None = None,
    dropout: float = 0.0,
    place: str,
    flash: bool = False,
) -> Tensor:
    """`ops.attention` of this rank's heads and positions.

    Args:
        q_BSND: queries of this rank's positions and heads.
        k_BSKD, v_BSKD: keys and values of its positions and of the heads that its queries need.
        slopes: of all of the model's heads, for linear biases.
        dropout: of the probabilities; 0 when not training.
        place: the layer's name, which chooses what dropout leaves out.
        flash: keep nothing of the size of the scores.

    Returns:
        [B, S, N, D].
    """
    degrees = topology.current().degrees
    numbers = heads.first_query + np.arange(heads.queries)
    positions = sequences.positions
    repeats = heads.repeats(degrees.sep)
    if max(repeats) > 1:
        k_BSKD, v_BSKD = (ops.repeat_heads(x, repeats) for x in (k_BSKD, v_BSKD))
    if degrees.sep > 1:
        q_BSND, k_BSKD, v_BSKD = (to_heads(x) for x in (q_BSND, k_BSKD, v_BSKD))
        numbers = np.split(numbers, degrees.sep)[topology.current().sequence_rank]
        positions = np.arange(sequences.length)
    mask = Mask(
        slopes=None if slopes is None else slopes[numbers],
        prefix_ends=sequences.prefix_ends,
        document_starts=sequences.document_starts,
    )
    rows_BNS = None
    if dropout:
        rows_BS = sequences.random_rows(place, positions)
        rows_BNS = random_bits.rows_of_heads(rows_BS, numbers)
    if degrees.context > 1:
        rows = Rows(mask, blocks_of(sequences.chunks), dropout, rows_BNS)
        return ring_attention(q_BSND, k_BSKD, v_BSKD, rows, sequences.length)
    serve = ops.flash_attention if flash else ops.attention
    y_BSND = serve(q_BSND, k_BSKD, v_BSKD, mask, dropout=dropout, rows_BNS=rows_BNS)
    return to_positions(y_BSND) if degrees.sep > 1 else y_BSND
