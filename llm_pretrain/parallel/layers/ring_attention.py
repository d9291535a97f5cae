"""Attention over positions that the ranks of the context axis share (arXiv:2310.01889).

Every rank keeps its queries. Keys and values go round a ring, and each rank attends to them as they
pass; the log-sum-exps of its rows put the parts together. In the backward pass they go round again,
followed by their gradients, which end where the keys are at home. The next part travels while the
present one is worked on. A rank holds one piece from the front of a sample and one from the back,
so that the causal mask leaves all ranks equally much to do (arXiv:2311.09431).

Shapes: B batch, S positions of a rank, N query heads, K key heads, D head size.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.flash_attention import (
    Pieces,
    Rows,
    attend_to,
    attend_to_backward,
    blocks_of,
    correction,
    merge,
)
from llm_pretrain.ops.gradients import for_trained, note_trained
from llm_pretrain.ops.precision import in_float32_on_cpu, to_compute_dtype
from llm_pretrain.parallel.comm import collectives, topology
from llm_pretrain.parallel.layers.micro_batch import chunks_of_rank


def ring_attention(
    q_BSND: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, rows: Rows, length: int
) -> Tensor:
    """`ops.attention` of this rank's queries to the keys and values of all ranks.

    Args:
        rows: the mask, and where this rank's queries stand.
        length: of whole samples.
    """
    q, k, v = (to_compute_dtype(x) for x in (q_BSND, k_BSKD, v_BSKD))
    return in_float32_on_cpu(lambda q, k, v: _Ring.apply(q, k, v, rows, length), q, k, v)


class _Ring(PyLayer):
    @staticmethod
    def forward(
        ctx: Any, q_BSND: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, rows: Rows, length: int
    ) -> Tensor:
        note_trained(ctx, q_BSND, k_BSKD, v_BSKD)
        group = topology.current().sequence_group
        output = log_sums = None
        passing = paddle.stack([k_BSKD, v_BSKD])
        for step in range(group.nranks):
            last = step == group.nranks - 1
            following = None if last else collectives.start_shift(passing, group)
            keys = _keys_at(step, group, length)
            part, part_sums = attend_to(q_BSND, passing[0], passing[1], rows, keys)
            if output is None:
                output, log_sums = part, part_sums
            else:
                output, log_sums = merge(output, log_sums, part, part_sums)
            if following is not None:
                passing = following.wait()
        assert output is not None
        output = output.astype(q_BSND.dtype)
        ctx.save_for_backward(q_BSND, k_BSKD, v_BSKD, output, log_sums)
        ctx.rows, ctx.length = rows, length
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
                q, passing[0], passing[1], log_sums, corrections, do_BSND, ctx.rows, keys
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


def _keys_at(step: int, group: Any, length: int) -> Pieces:
    """Where the keys stand that are here after `step` moves."""
    home = (group.rank - step) % group.nranks
    return blocks_of(chunks_of_rank(length, home))
