"""Parameters side by side in a flat tensor, which is cut into one shard for each sharding rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from paddle import Tensor

from llm_pretrain.parallel.pieces import Piece


@dataclass(frozen=True)
class Placement:
    """A parameter and its range [begin, end) in the flat tensor."""

    parameter: Tensor
    pieces: list[Piece]
    begin: int
    end: int


class FlatLayout:
    """Where each parameter stands, and which range is this rank's shard.

    Attributes:
        padded: length of the flat tensor: a multiple of the number of shards.
        shard_size, shard_begin: of this rank's shard, in elements.
    """

    def __init__(
        self, parameters: Sequence[tuple[Tensor, list[Piece]]], *, shards: int, rank: int
    ) -> None:
        self.placements: list[Placement] = []
        end = 0
        for parameter, pieces in parameters:
            begin, end = end, end + parameter.size
            self.placements.append(Placement(parameter, pieces, begin, end))
        self.shard_size = -(-end // shards)
        self.shard_begin = rank * self.shard_size
        self.padded = self.shard_size * shards

    def shard_of(self, flat: Tensor) -> Tensor:
        """This rank's shard of a flat tensor [padded], a view of it."""
        return flat._slice(self.shard_begin, self.shard_begin + self.shard_size)

    def view(self, flat: Tensor, placement: Placement) -> Tensor:
        """The parameter's range of a flat tensor [padded], in its shape, a view of it."""
        view = flat._slice(placement.begin, placement.end)
        view.get_tensor()._set_dims(list(placement.parameter.shape))
        return view

    def shard_placements(self) -> Iterator[tuple[Placement, int, int]]:
        """Each parameter in this rank's shard, with its range [begin, end) of the flat tensor."""
        for placement in self.placements:
            begin = max(placement.begin, self.shard_begin)
            end = min(placement.end, self.shard_begin + self.shard_size)
            if begin < end:
                yield placement, begin, end
