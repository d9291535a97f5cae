"""Parameters and gradients in flat buffers, of which each sharding rank updates its shard.

A bucket lays parameters of one kind side by side in one tensor; the parameters become views of it.
Gradients are added to a second flat tensor as the backward pass produces them. One reduce-scatter
then leaves each sharding rank the sum of its shard, and one all-gather spreads the updated weights
(Rajbhandari et al., arXiv:1910.02054, stage 1). With one sharding rank the shard is the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import paddle
from paddle import Tensor, nn

from llm_pretrain.parallel import collectives
from llm_pretrain.parallel.pieces import Piece, grouped_pieces
from llm_pretrain.parallel.topology import Topology

_CHUNK = 1 << 22
"""Elements summed at a time for a norm, which bounds the memory of their squares."""


@dataclass(frozen=True)
class Kind:
    """What the parameters of a bucket have in common."""

    decays: bool
    """Whether weight decay applies: matrices, not norms and biases."""
    is_split: bool
    """Whether each tensor-parallel rank holds different values."""
    is_tied: bool
    """Whether the first and the last pipeline stage hold the same values."""


@dataclass(frozen=True)
class Placement:
    """A parameter and its range [begin, end) in the bucket."""

    parameter: Tensor
    pieces: list[Piece]
    begin: int
    end: int


class Bucket:
    """One flat tensor of weights, one of gradients, and this rank's shard of both.

    Attributes:
        weights: [padded] in the parameters' dtype; the parameters are views of it.
        gradients: [padded] in the dtype of accumulation.
        master: the shard's weights in float32 [padded / sharding degree]; a view of `weights`
            where they are float32 themselves.
    """

    def __init__(
        self,
        kind: Kind,
        parameters: list[tuple[Tensor, list[Piece]]],
        topology: Topology,
        gradient_dtype: str,
    ) -> None:
        self.kind = kind
        self.topology = topology
        self.placements: list[Placement] = []
        end = 0
        for parameter, pieces in parameters:
            begin, end = end, end + parameter.size
            self.placements.append(Placement(parameter, pieces, begin, end))
        degree = topology.degrees.sharding
        self.size = end
        self.shard_size = -(-end // degree)
        self.shard_begin = topology.sharding_rank * self.shard_size
        padded = self.shard_size * degree
        self.weights = paddle.zeros([padded], parameters[0][0].dtype)
        self.gradients = paddle.zeros([padded], gradient_dtype)
        for placement in self.placements:
            self._bind(placement)
        shard = self._shard_of(self.weights)
        self.master = paddle.create_parameter(
            [self.shard_size], "float32", default_initializer=nn.initializer.Constant(0.0)
        )
        if self.weights.dtype == paddle.float32:
            shard._share_buffer_to(self.master)
        else:
            self.copy_weights_to_master()

    def _bind(self, placement: Placement) -> None:
        """Make the parameter a view of the flat weights and send its gradients to the flat ones."""
        parameter, shape = placement.parameter, list(placement.parameter.shape)
        view = self.weights._slice(placement.begin, placement.end)
        view.copy_(parameter.flatten(), True)
        view.get_tensor()._set_dims(shape)
        view._share_buffer_to(parameter)
        target = self.gradients._slice(placement.begin, placement.end).view(shape)

        @paddle.no_grad()
        def accumulate(gradient: Tensor) -> None:
            if gradient is not None and gradient._is_initialized():
                _add(target, gradient)
                gradient._clear_data()

        parameter._register_grad_hook(accumulate)

    def _shard_of(self, flat: Tensor) -> Tensor:
        return flat._slice(self.shard_begin, self.shard_begin + self.shard_size)

    @paddle.no_grad()
    def copy_weights_to_master(self) -> None:
        """Take the parameters' present values as the master weights."""
        if self.weights.dtype != paddle.float32:
            self.master.copy_(self._shard_of(self.weights).astype("float32"), True)

    @paddle.no_grad()
    def reduce_gradients(self) -> Tensor:
        """Sum the gradients over all ranks that hold these weights; return this rank's shard."""
        if self.kind.is_tied:
            collectives.all_reduce(self.gradients, self.topology.tied_embedding_group)
        shard = self._shard_of(self.gradients)
        collectives.reduce_scatter(shard, self.gradients, self.topology.sharding_group)
        return collectives.all_reduce(shard, self.topology.data_group)

    def counts_in_norm(self) -> bool:
        """Whether this rank is the one of those with equal values that counts them."""
        layout = self.topology
        if self.kind.is_tied and not layout.is_first_stage:
            return False
        return self.kind.is_split or layout.tensor_rank == 0

    @paddle.no_grad()
    def spread_weights(self) -> None:
        """Give every sharding rank the updated weights."""
        shard = self._shard_of(self.weights)
        if self.weights.dtype != paddle.float32:
            shard.copy_(self.master.astype(self.weights.dtype), True)
        collectives.all_gather_into(self.weights, shard, self.topology.sharding_group)

    def shard_placements(self) -> Iterator[tuple[Placement, int, int]]:
        """Each parameter in this rank's shard, with its range [begin, end) of the bucket there."""
        for placement in self.placements:
            begin = max(placement.begin, self.shard_begin)
            end = min(placement.end, self.shard_begin + self.shard_size)
            if begin < end:
                yield placement, begin, end


def _add(target: Tensor, gradient: Tensor) -> None:
    """Add in place, in float32 and then rounded where `target` has fewer bits."""
    if target.dtype == paddle.float32:
        target.add_(gradient.astype("float32"))
    else:
        total = target.astype("float32") + gradient.astype("float32")
        paddle.assign(total.astype(target.dtype), target)


def build_buckets(
    model: nn.Layer,
    topology: Topology,
    *,
    gradient_dtype: str,
    tied_embedding: bool,
    bucket_bytes: int,
) -> list[Bucket]:
    """Lay all parameters of this rank's part of the model out in buckets of about `bucket_bytes`.

    Args:
        gradient_dtype: dtype in which gradients are accumulated and reduced.
        tied_embedding: the model's head uses the embedding's table.
    """
    kinds: dict[Kind, list[tuple[Tensor, list[Piece]]]] = {}
    for parameter, pieces in grouped_pieces(model):
        kind = Kind(
            decays=len(parameter.shape) > 1,
            is_split=pieces[0].axis is not None,
            is_tied=tied_embedding
            and topology.degrees.pipeline > 1
            and pieces[0].name == "embedding.weight",
        )
        kinds.setdefault(kind, []).append((parameter, pieces))
    buckets: list[Bucket] = []
    for kind, parameters in sorted(kinds.items(), key=lambda item: str(item[0])):
        batch: list[tuple[Tensor, list[Piece]]] = []
        filled = 0
        for entry in parameters:
            size = entry[0].size * entry[0].element_size()
            if batch and filled + size > bucket_bytes:
                buckets.append(Bucket(kind, batch, topology, gradient_dtype))
                batch, filled = [], 0
            batch.append(entry)
            filled += size
        buckets.append(Bucket(kind, batch, topology, gradient_dtype))
    return buckets


@paddle.no_grad()
def global_norm(buckets: list[Bucket], shards: list[Tensor], topology: Topology) -> Tensor:
    """Euclidean norm, float32 [1], of all gradients of the model, each counted once."""
    total = paddle.zeros([1], "float32")
    for bucket, shard in zip(buckets, shards, strict=True):
        if bucket.counts_in_norm():
            for begin in range(0, shard.size, _CHUNK):
                chunk = shard._slice(begin, min(begin + _CHUNK, shard.size)).astype("float32")
                # paddle.dot adds up in one run on CPU: 0.4 % off at this length.
                total += chunk.square().sum()
    for group in (topology.sharding_group, topology.tensor_group, topology.pipeline_group):
        collectives.all_reduce(total, group)
    return total.sqrt()
