"""The model's parameters in buckets: flat buffers that are reduced, updated and gathered as one.

Each sharding rank updates its shard of every bucket. What else it holds depends on the stage
(Rajbhandari et al., arXiv:1910.02054): 1, all weights and gradients; 2, all weights and its shard
of the gradients; 3, its shard of both. With one sharding rank the shard is the whole.

At stage 3 a unit of the model (embedding, decoder block, head) holds its weights from before its
forward pass to after it, and again in the backward pass from before its own gradients are computed
until all gradients of a bucket have arrived. While it computes, the weights of the unit that comes
next are on their way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import paddle
from paddle import Tensor, nn

from llm_pretrain.ops import internals
from llm_pretrain.ops.gradients import offer_sum
from llm_pretrain.parallel.comm.collectives import Group
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.sharding.flat_buffers import (
    FlatBuffer,
    Placement,
    ShardedWeights,
    WholeWeights,
)
from llm_pretrain.parallel.sharding.flat_gradients import (
    ShardedGradients,
    Summation,
    TransfersInFlight,
    WholeGradients,
)
from llm_pretrain.parallel.sharding.pieces import Piece, grouped_pieces, named_pieces

_MOST_IN_FLIGHT = 2
_WHOLE_MODEL = -1


@dataclass(frozen=True)
class Sharding:
    """How buckets are formed and kept.

    Attributes:
        stage: 1, 2 or 3.
        gradient_dtype: in which gradients are added up and reduced.
        overlaps_reduction: a bucket's reduction begins in the backward pass that completes it.
        overlaps_gathering: updated weights are gathered while the next step begins.
        releases_gradients: gradients take no memory between steps.
    """

    stage: int
    bucket_bytes: int
    gradient_dtype: str = "float32"
    overlaps_reduction: bool = False
    overlaps_gathering: bool = False
    releases_gradients: bool = False


@dataclass(frozen=True)
class Kind:
    """What the parameters of a bucket have in common."""

    decays: bool
    """Whether weight decay applies: matrices, not norms and biases."""
    is_split: bool
    """Whether each tensor-parallel rank holds different values."""
    is_tied: bool
    """Whether the first and the last pipeline stage hold the same values."""
    is_partial: bool
    """Whether each tensor-parallel rank computes a part of the gradient of the same values."""
    rate: float = 1.0
    """Factor of the learning rate, but for weight decay."""


class Bucket:
    """Parameters of one kind, laid out flat, with their gradients and float32 masters."""

    def __init__(
        self,
        kind: Kind,
        parameters: list[tuple[Tensor, list[Piece]]],
        topology: Topology,
        sharding: Sharding,
        transfers: TransfersInFlight,
    ) -> None:
        self.kind = kind
        self.topology = topology
        self.sharding = sharding
        self.buffer = FlatBuffer(
            parameters, shards=topology.degrees.sharding, rank=topology.sharding_rank
        )
        group = topology.sharding_group
        # Vectors are less than 0.5 % of a model: they stay whole whatever the stage, in few
        # buckets, so that no unit waits for messages that are too short to be worth sending.
        stage = sharding.stage if kind.decays else 1
        self.weights = (
            ShardedWeights(self.buffer, group)
            if stage == 3
            else WholeWeights(self.buffer, group, overlaps=sharding.overlaps_gathering)
        )
        summation = Summation(
            sharding.gradient_dtype, group, self._shard_groups(), sharding.releases_gradients
        )
        self.gradients = (
            WholeGradients(self.buffer, summation)
            if stage == 1
            else ShardedGradients(self.buffer, summation, transfers)
        )
        self.arrivals = self.last_arrival = 0
        for placement in self.buffer.placements:
            internals.call_with_gradient(placement.parameter, partial(self._accumulate, placement))
            offer_sum(placement.parameter, partial(self._sum_of, placement))

    @property
    def master(self) -> Tensor:
        """This rank's shard of the weights, float32 [shard]."""
        return self.weights.master

    @property
    def is_reducing(self) -> bool:
        """Whether the reduction of a step's gradients has begun."""
        return isinstance(self.gradients, WholeGradients) and self.gradients.started is not None

    def _shard_groups(self) -> tuple[Group, ...]:
        """The groups of ranks that hold the same shard and have other gradients for it."""
        topology = self.topology
        return (
            topology.replica_group,
            topology.tensor_group if self.kind.is_partial else None,
            topology.tied_embedding_group if self.kind.is_tied else None,
        )

    def begin_step(self, micro_batches: int) -> None:
        """Expect the gradients of `micro_batches` backward passes."""
        if self.sharding.overlaps_reduction:
            self.last_arrival = micro_batches * len(self.buffer.placements)

    def _sum_of(self, placement: Placement) -> tuple[Tensor, bool] | None:
        """For operators that add to the sum themselves, which they do in float32."""
        if self.sharding.gradient_dtype != "float32":
            return None
        return self.gradients.sums.place_of(placement)

    @paddle.no_grad()
    def _accumulate(self, placement: Placement, gradient: Tensor | None) -> None:
        if gradient is not None and internals.has_values(gradient):
            self.gradients.sums.add(placement, gradient)
            internals.free(gradient)
        self.arrivals += 1
        if self.arrivals % len(self.buffer.placements) == 0:
            self.weights.release()
            self.gradients.end_pass(is_last=self.arrivals == self.last_arrival)

    @paddle.no_grad()
    def reduce_gradients(self) -> Tensor:
        """Sum the gradients over all ranks that hold these weights; return this rank's shard."""
        self.weights.release()
        return self.gradients.reduce()

    def clear_gradients(self) -> None:
        self.gradients.clear()
        self.arrivals = self.last_arrival = 0

    def counts_in_norm(self) -> bool:
        """Whether this rank is the one of those with equal values that counts them."""
        topology = self.topology
        if self.kind.is_tied and not topology.is_first_stage:
            return False
        return self.kind.is_split or topology.tensor_rank == 0


def runs_of_units(model: nn.Layer) -> list[list[nn.Layer]]:
    """The units (layers whose weights are gathered together), in runs computed one after another.

    The runs are the model's `chunks`; a model without them is one unit.
    """
    return getattr(model, "chunks", [[model]])


def build_buckets(
    model: nn.Layer,
    topology: Topology,
    sharding: Sharding,
    *,
    tied_embedding: bool,
    rate_of: Callable[[str], float] | None = None,
) -> list[Bucket]:
    """Lay all parameters of this rank's part of the model out in buckets.

    A bucket is of one kind and at most `bucket_bytes` long, unless one parameter is longer. At
    stages 2 and 3 matrices of different units have different buckets, too.

    Args:
        tied_embedding: the model's head uses the embedding's table.
        rate_of: the factor of the learning rate, the same for all pieces of a parameter, by
            canonical name; None is 1.
    """
    unit_of: dict[int, int] = {}
    for number, unit in enumerate(chain.from_iterable(runs_of_units(model))):
        for parameter in unit.parameters():
            unit_of.setdefault(id(parameter), number)
    groups: dict[tuple[int, Kind], list[tuple[Tensor, list[Piece]]]] = {}
    for parameter, pieces in grouped_pieces(model):
        is_split = pieces[0].axis is not None
        rates = {1.0 if rate_of is None else rate_of(piece.name) for piece in pieces}
        assert len(rates) == 1, f"{[piece.name for piece in pieces]} learn at {rates}"
        kind = Kind(
            decays=len(parameter.shape) > 1,
            is_split=is_split,
            is_tied=tied_embedding
            and topology.degrees.pipeline > 1
            and pieces[0].name == "embedding.weight",
            is_partial=getattr(parameter, "is_partial", False)
            or (topology.sequence_parallel and not is_split),
            rate=rates.pop(),
        )
        by_unit = sharding.stage > 1 and kind.decays
        unit_number = unit_of[id(parameter)] if by_unit else _WHOLE_MODEL
        groups.setdefault((unit_number, kind), []).append((parameter, pieces))
    transfers = TransfersInFlight(_MOST_IN_FLIGHT if sharding.overlaps_reduction else 0)
    return [
        Bucket(kind, parameters, topology, sharding, transfers)
        for (_, kind), members in sorted(
            groups.items(), key=lambda item: (item[0][0], str(item[0][1]))
        )
        for parameters in _batches(members, sharding.bucket_bytes)
    ]


def _batches(
    members: list[tuple[Tensor, list[Piece]]], most_bytes: int
) -> Iterator[list[tuple[Tensor, list[Piece]]]]:
    batch: list[tuple[Tensor, list[Piece]]] = []
    filled = 0
    for member in members:
        size = member[0].size * member[0].element_size()
        if batch and filled + size > most_bytes:
            yield batch
            batch, filled = [], 0
        batch.append(member)
        filled += size
    yield batch


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
