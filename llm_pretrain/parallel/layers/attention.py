"""Attention over heads and positions that the ranks share.

Between the ranks of the sep axis positions are exchanged against heads (DeepSpeed-Ulysses,
arXiv:2309.14509): outside attention every rank holds some positions of all heads, inside it all
positions of some.

On the context axis (ring attention, arXiv:2310.01889) every rank keeps its queries. Keys and values
go round a ring, and each rank attends to them as they pass; the log-sum-exps of its rows put the
parts together. In the backward pass they go round again, followed by their gradients, which end
where the keys are at home. The next part travels while the present one is worked on. A rank holds a
part from the front of a sample and one from the back, so that the causal mask leaves all ranks
equally much to do (arXiv:2311.09431).

Shapes: B batch, S positions, N heads of this tensor-parallel rank, K key heads, D of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain import ops
from llm_pretrain.ops import random_bits
from llm_pretrain.ops.flash_attention import (
    Blocks,
    Queries,
    attend_to,
    attend_to_backward,
    blocks_of,
    correction,
    merge,
)
from llm_pretrain.ops.gradients import for_trained, note_trained
from llm_pretrain.ops.mask import Mask
from llm_pretrain.ops.operator import in_float32_on_cpu, to_compute_dtype
from llm_pretrain.parallel.comm import collectives, topology
from llm_pretrain.parallel.layers.micro_batch import Sequences, ranges_of_rank


@dataclass(frozen=True)
class LocalHeads:
    """This rank's query heads, one after another, and the key and value heads they attend to.

    Where the degree does not divide the key and value heads, neighbouring ranks compute the same
    ones, from weights that every rank holds whole.
    """

    first_query: int
    first_key: int
    queries_of_key: tuple[int, ...]
    """How many of this rank's query heads attend to each of its key heads, one after another."""
    keys_are_split: bool
    """Whether every key head is computed by one rank alone."""

    @property
    def queries(self) -> int:
        return sum(self.queries_of_key)

    @property
    def keys(self) -> int:
        return len(self.queries_of_key)

    def repeats(self, parts: int) -> tuple[int, ...]:
        """How often each key head must stand for all of them to serve equally many query heads.

        None of them then serves query heads of two of `parts` equal parts, and as few are repeated
        as that allows.
        """
        served = math.gcd(self.queries // parts, *self.queries_of_key)
        return tuple(queries // served for queries in self.queries_of_key)


def local_heads(query_heads: int, key_heads: int) -> LocalHeads:
    """The heads of this rank; `query_heads` is a multiple of the degree and of `key_heads`."""
    here = topology.current()
    degree, rank = here.degrees.tensor, here.tensor_rank
    assert query_heads % degree == 0, f"{query_heads} heads over {degree} ranks"
    queries, group = query_heads // degree, query_heads // key_heads
    first, end = rank * queries, (rank + 1) * queries
    first_key, end_key = first // group, -(-end // group)
    queries_of_key = tuple(
        min((key + 1) * group, end) - max(key * group, first) for key in range(first_key, end_key)
    )
    return LocalHeads(first, first_key, queries_of_key, key_heads % degree == 0)


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
    numbers_BNS = None
    if dropout:
        numbers_BS = sequences.random_numbers(place, positions)
        numbers_BNS = random_bits.numbers_of_heads(numbers_BS, numbers)
    if degrees.context > 1:
        side = Queries(mask, blocks_of(sequences.ranges), dropout, numbers_BNS)
        return ring_attention(q_BSND, k_BSKD, v_BSKD, side, sequences.length)
    serve = ops.flash_attention if flash else ops.attention
    y_BSND = serve(q_BSND, k_BSKD, v_BSKD, mask, dropout=dropout, numbers_BNS=numbers_BNS)
    return to_positions(y_BSND) if degrees.sep > 1 else y_BSND


def _to_heads(x_BSND: Tensor) -> Tensor:
    """[B, S/n, N, D] -> [B, S, N/n, D], over n ranks."""
    B, S, _, D = x_BSND.shape
    group = topology.current().sequence_group
    by_heads = _permuted("bsrnd->rbsnd", x_BSND.reshape([B, S, group.nranks, -1, D]))
    by_positions = collectives.all_to_all(by_heads, group)
    return _permuted("rbsnd->brsnd", by_positions).reshape([B, group.nranks * S, -1, D])


def _to_positions(x_BSND: Tensor) -> Tensor:
    """[B, S, N/n, D] -> [B, S/n, N, D], over n ranks."""
    B, _, N, D = x_BSND.shape
    group = topology.current().sequence_group
    by_positions = _permuted("brsnd->rbsnd", x_BSND.reshape([B, group.nranks, -1, N, D]))
    by_heads = collectives.all_to_all(by_positions, group)
    return _permuted("rbsnd->bsrnd", by_heads).reshape([B, -1, group.nranks * N, D])


def _permuted(equation: str, x: Tensor) -> Tensor:
    # Einsum copies fast where transpose makes a strided view; on CPU it has no 16-bit kernels.
    return in_float32_on_cpu(lambda x: paddle.einsum(equation, x), x)


to_heads = collectives.dual(_to_heads, _to_positions)
to_positions = collectives.dual(_to_positions, _to_heads)


# """Which attention heads a rank of the tensor-parallel group computes."""


def ring_attention(
    q_BSND: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, side: Queries, length: int
) -> Tensor:
    """`ops.attention` of this rank's queries to the keys and values of all ranks.

    Args:
        side: the mask, and where this rank's queries stand.
        length: of whole samples.
    """
    q, k, v = (to_compute_dtype(x) for x in (q_BSND, k_BSKD, v_BSKD))
    return in_float32_on_cpu(lambda q, k, v: _Ring.apply(q, k, v, side, length), q, k, v)


class _Ring(PyLayer):
    @staticmethod
    def forward(
        ctx: Any, q_BSND: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, side: Queries, length: int
    ) -> Tensor:
        note_trained(ctx, q_BSND, k_BSKD, v_BSKD)
        group = topology.current().sequence_group
        output = log_sums = None
        passing = paddle.stack([k_BSKD, v_BSKD])
        for step in range(group.nranks):
            last = step == group.nranks - 1
            following = None if last else collectives.start_shift(passing, group)
            keys = _keys_at(step, group, length)
            part, part_sums = attend_to(q_BSND, passing[0], passing[1], side, keys)
            if output is None:
                output, log_sums = part, part_sums
            else:
                output, log_sums = merge(output, log_sums, part, part_sums)
            if following is not None:
                passing = following.wait()
        assert output is not None
        output = output.astype(q_BSND.dtype)
        ctx.save_for_backward(q_BSND, k_BSKD, v_BSKD, output, log_sums)
        ctx.side, ctx.length = side, length
        return output

    @staticmethod
    def backward(ctx: Any, do_BSND: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, output, log_sums = ctx.saved_tensor()
        group = topology.current().sequence_group
        corrections = correction(do_BSND, output)
        passing = paddle.stack([k, v])
        dq = paddle.zeros(q.shape, "float32")
        own = returning = None
        for step in range(group.nranks):
            last = step == group.nranks - 1
            following = None if last else collectives.start_shift(passing, group)
            keys = _keys_at(step, group, ctx.length)
            part_dq, *parts = attend_to_backward(
                q, passing[0], passing[1], log_sums, corrections, do_BSND, ctx.side, keys
            )
            dq.add_(part_dq)
            gradients = paddle.stack(parts)
            if own is None:
                own = gradients
            else:
                if returning is not None:
                    gradients.add_(returning.wait())
                returning = collectives.start_shift(gradients, group)
            if following is not None:
                passing = following.wait()
        assert own is not None
        assert returning is not None
        dk, dv = own.add_(returning.wait())
        return for_trained(ctx, *(gradient.astype(q.dtype) for gradient in (dq, dk, dv)))


def _keys_at(step: int, group: Any, length: int) -> Blocks:
    """Where the keys stand that are here after `step` moves."""
    home = (group.rank - step) % group.nranks
    return blocks_of(ranges_of_rank(length, home))
