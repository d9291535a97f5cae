"""Attention whose memory is linear in the sequence length (Dao et al., arXiv:2205.14135).

Scores are computed for a block of queries and a block of keys at a time. What is kept is the output
and the log-sum-exp of every row, from which the backward pass computes the probabilities again.

Shapes: B batch, S queries, T keys, N query heads, K key heads, G = N / K, D head size; of a block,
M = G · R the rows of a key head, one query head after another. Log-sum-exps are float32, all else
float32 or the dtype of the products.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from llm_pretrain.ops.attention import (
    ATTENTION,
    attention,
    by_group,
    join_keys,
    join_queries,
    numbers_of_block,
    rows_of_group,
    split_keys,
    split_queries,
)
from llm_pretrain.ops.gradients import for_trained, note_trained
from llm_pretrain.ops.mask import Mask
from llm_pretrain.ops.operator import Draw, Work, in_float32_on_cpu, to_compute_dtype
from llm_pretrain.ops.random_bits import keep
from llm_pretrain.ops.workload import Workload

_BLOCK = 256
"""Most positions of a block."""

_SMALLEST = 1e-30
"""Probabilities below are taken for zero."""

Blocks = tuple[NDArray[np.int64], ...]
"""Positions in the sample, in blocks of consecutive ones."""


def blocks_of(ranges: tuple[tuple[int, int], ...]) -> Blocks:
    """The positions of ranges [begin, end), in blocks."""
    return tuple(
        np.arange(first, min(first + _BLOCK, end))
        for begin, end in ranges
        for first in range(begin, end, _BLOCK)
    )


@dataclass(frozen=True)
class Queries:
    """The queries' side of attention.

    Attributes:
        mask: what a position sees.
        blocks: where the queries stand, in their order.
        dropout: of the probabilities.
        random_numbers: int64 [B, N, S], needed where there is dropout.
    """

    mask: Mask
    blocks: Blocks
    dropout: float = 0.0
    random_numbers: Tensor | None = None

    def visible_blocks(self, keys: Blocks) -> Iterator[tuple[int, int]]:
        """Numbers of the blocks of queries and keys of which something is seen."""
        for i, queries in enumerate(self.blocks):
            for j, block in enumerate(keys):
                if not self.mask.hides_all(queries, block):
                    yield i, j

    def bias(self, i: int, keys: NDArray[np.int64], groups: int) -> Tensor | None:
        """What is added to the scores of a block, broadcast to [B, K, G·R, T]."""
        bias = self.mask.bias(self.blocks[i], keys)
        if bias is None:
            return None
        grouped = by_group(bias, groups)
        B, K, _, R, T = grouped.shape
        return grouped.expand([B, K, groups, R, T]).reshape([B, K, groups * R, T])

    def kept(self, i: int, keys: NDArray[np.int64], groups: int) -> Tensor | None:
        """What dropout multiplies the probabilities of a block by, [B, K, G·R, T]."""
        if not self.dropout:
            return None
        assert self.random_numbers is not None
        begin = sum(len(block) for block in self.blocks[:i])
        local = np.arange(begin, begin + len(self.blocks[i]))
        numbers = numbers_of_block(self.random_numbers, groups, local)
        return keep(numbers, keys, self.dropout).astype("float32").scale_(1 / (1 - self.dropout))


@ATTENTION.reference
def flash_attention(
    q_BSND: Tensor,
    k_BSKD: Tensor,
    v_BSKD: Tensor,
    mask: Mask,
    *,
    dropout: float = 0.0,
    numbers_BNS: Tensor | None = None,
) -> Tensor:
    """`ops.attention`, keeping nothing of size S × S."""
    q, k, v = (to_compute_dtype(x) for x in (q_BSND, k_BSKD, v_BSKD))
    side = Queries(mask, blocks_of(((0, q_BSND.shape[1]),)), dropout, numbers_BNS)
    return in_float32_on_cpu(lambda q, k, v: _FlashAttention.apply(q, k, v, side), q, k, v)


@ATTENTION.work_of_a_run
def _work(draw: Draw, of: Workload) -> Work:
    q, k, v = (
        draw.large(of.compute_dtype, of.samples, of.attended, heads, of.head_size)
        for heads in (of.heads, of.key_heads, of.key_heads)
    )
    serve, mask = flash_attention if of.keeps_no_scores else attention, of.mask()
    return draw.work(lambda q, k, v: [serve(q, k, v, mask)], q, k, v)


class _FlashAttention(PyLayer):
    @staticmethod
    def forward(ctx: Any, q_BSND: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, side: Queries) -> Tensor:
        note_trained(ctx, q_BSND, k_BSKD, v_BSKD)
        output, log_sums = attend_to(q_BSND, k_BSKD, v_BSKD, side, side.blocks)
        output = output.astype(q_BSND.dtype)
        ctx.save_for_backward(q_BSND, k_BSKD, v_BSKD, output, log_sums)
        ctx.side = side
        return output

    @staticmethod
    def backward(ctx: Any, do_BSND: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, output, log_sums = ctx.saved_tensor()
        gradients = attend_to_backward(
            q, k, v, log_sums, correction(do_BSND, output), do_BSND, ctx.side, ctx.side.blocks
        )
        return for_trained(ctx, *(gradient.astype(q.dtype) for gradient in gradients))


def attend_to(
    q_BSND: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, side: Queries, keys: Blocks
) -> tuple[Tensor, Tensor]:
    """Attention to keys at the positions `keys`: output [B, S, N, D], log-sum-exp [B, S, N, 1].

    Both float32; rows that see none of the keys have zeros and a large negative log-sum-exp.
    """
    groups, queries, sizes = _queries(q_BSND, k_BTKD, side)
    key_sizes = [len(block) for block in keys]
    key_blocks, value_blocks = split_keys(k_BTKD, key_sizes), split_keys(v_BTKD, key_sizes)
    outputs: list[Tensor | None] = [None] * len(queries)
    log_sums: list[Tensor | None] = [None] * len(queries)
    for i, j in side.visible_blocks(keys):
        output, log_sum = _attend(
            queries[i],
            key_blocks[j],
            value_blocks[j],
            side.bias(i, keys[j], groups),
            side.kept(i, keys[j], groups),
        )
        if outputs[i] is not None:
            output, log_sum = merge(outputs[i], log_sums[i], output, log_sum)
        outputs[i], log_sums[i] = output, log_sum
    for i, query in enumerate(queries):
        if outputs[i] is None:
            outputs[i] = paddle.zeros(query.shape, "float32")
            log_sums[i] = paddle.full([*query.shape[:3], 1], -1e30, "float32")
    return _joined(outputs, groups, sizes), _joined(log_sums, groups, sizes)


def correction(do_BSND: Tensor, output_BSND: Tensor) -> Tensor:
    """rowsum(dO · O), float32 [B, S, N, 1]."""
    return (do_BSND.astype("float32") * output_BSND.astype("float32")).sum(-1, keepdim=True)


def attend_to_backward(
    q_BSND: Tensor,
    k_BTKD: Tensor,
    v_BTKD: Tensor,
    log_sums_BSN1: Tensor,
    correction_BSN1: Tensor,
    do_BSND: Tensor,
    side: Queries,
    keys: Blocks,
) -> tuple[Tensor, Tensor, Tensor]:
    """The part of the gradients of queries, keys and values that goes through these keys, float32.

    Args:
        log_sums_BSN1, correction_BSN1: of whole rows, over all keys.
    """
    groups, queries, sizes = _queries(q_BSND, k_BTKD, side)
    key_sizes = [len(block) for block in keys]
    key_blocks, value_blocks = split_keys(k_BTKD, key_sizes), split_keys(v_BTKD, key_sizes)
    outputs, log_sums, corrections = (
        [rows_of_group(block) for block in split_queries(x, groups, sizes)]
        for x in (do_BSND, log_sums_BSN1, correction_BSN1)
    )
    dq = [paddle.zeros(block.shape, "float32") for block in queries]
    dk, dv = ([paddle.zeros(block.shape, "float32") for block in key_blocks] for _ in range(2))
    for i, j in side.visible_blocks(keys):
        parts = _attend_backward(
            queries[i],
            key_blocks[j],
            value_blocks[j],
            side.bias(i, keys[j], groups),
            side.kept(i, keys[j], groups),
            log_sums[i],
            corrections[i],
            outputs[i],
        )
        for total, part in zip((dq[i], dk[j], dv[j]), parts, strict=True):
            total.add_(part)
    scale = 1 / math.sqrt(q_BSND.shape[-1])
    return _joined(dq, groups, sizes).scale_(scale), join_keys(dk), join_keys(dv)


def _queries(q_BSND: Tensor, k_BTKD: Tensor, side: Queries) -> tuple[int, list[Tensor], list[int]]:
    """Heads of a group, scaled blocks [B, K, G·R, D], and the blocks' sizes."""
    sizes = [len(block) for block in side.blocks]
    groups = q_BSND.shape[2] // k_BTKD.shape[2]
    scaled = q_BSND * (1 / math.sqrt(q_BSND.shape[-1]))
    return groups, [rows_of_group(block) for block in split_queries(scaled, groups, sizes)], sizes


def _joined(blocks_BKMX: list[Any], groups: int, sizes: list[int]) -> Tensor:
    return join_queries(
        [
            block.reshape([*block.shape[:2], groups, size, block.shape[-1]])
            for block, size in zip(blocks_BKMX, sizes, strict=True)
        ]
    )


def _attend(
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


def _attend_backward(
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
