"""Weights made whole around their use: by each unit of a model, or by who reads them all.

Applied to a model from outside, after recompute. A unit (embedding, decoder block, head) holds its
weights from before its forward pass to after it, and again in the backward pass from before its own
gradients are computed until all gradients of a bucket have arrived. While it computes, the weights
of the unit that comes next are on their way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from paddle import Tensor, nn

from llm_pretrain.parallel.sharding.buckets import Bucket, runs_of_units
from llm_pretrain.parallel.sharding.flat_buffers import ShardedWeights, WholeWeights
from llm_pretrain.parallel.sharding.pieces import Piece, named_pieces

Weights = WholeWeights | ShardedWeights


def gather_around_units(model: nn.Layer, buckets: Sequence[Bucket]) -> None:
    """Make each unit of `model` hold the weights that it uses."""
    of_parameter = _weights_by_parameter(buckets)
    for units in runs_of_units(model):
        # A dict keeps the order, which must be that of all ranks.
        used = [
            list(dict.fromkeys(of_parameter[id(value)] for value in unit.parameters()))
            for unit in units
        ]
        for unit, before, own, after in zip(
            units, [[], *used[:-1]], used, [*used[1:], []], strict=True
        ):
            _gather_around(unit, before, own, after)


def _gather_around(
    unit: nn.Layer, before: list[Weights], own: list[Weights], after: list[Weights]
) -> None:
    def hold(following: list[Weights]) -> None:
        for weights in own:
            weights.hold()
        for weights in following:
            weights.prefetch()

    def before_forward(_unit: nn.Layer, _inputs: Any) -> None:
        hold(after)

    def after_forward(_unit: nn.Layer, _inputs: Any, output: Tensor) -> None:
        for weights in own:
            weights.release()
        if not output.stop_gradient:
            output.register_hook(before_backward)

    def before_backward(_gradient: Tensor) -> None:
        hold(before)

    unit.register_forward_pre_hook(before_forward)
    unit.register_forward_post_hook(after_forward)


def gathered_pieces(model: nn.Layer, buckets: Sequence[Bucket]) -> Iterator[tuple[Tensor, Piece]]:
    """`named_pieces`, of which each parameter is whole while it is at hand.

    Every sharding rank must run through it. One sharded bucket at a time is in memory.
    """
    of_parameter = _weights_by_parameter(buckets)
    held: Weights | None = None
    try:
        for parameter, piece in named_pieces(model):
            weights = of_parameter[id(parameter)]
            if weights is not held and isinstance(weights, ShardedWeights):
                if held is not None:
                    held.release()
                held = weights
            weights.hold()
            yield parameter, piece
    finally:
        if held is not None:
            held.release()


def _weights_by_parameter(buckets: Sequence[Bucket]) -> dict[int, Weights]:
    return {
        id(placement.parameter): bucket.weights
        for bucket in buckets
        for placement in bucket.buffer.placements
    }
