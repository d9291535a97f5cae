"""The place of any rank in a layout, with groups that stand for those of a job."""

from __future__ import annotations

from typing import Any

from llm_pretrain.config.degrees import ORDERS, Degrees, axis_sizes
from llm_pretrain.planning.shapes.collectives import Group
from llm_pretrain.planning.trace import Axis


class Ranks:
    """All ranks of a layout by their places along its axes.

    Args:
        order: "pp_first" or "sharding_first", in which ranks are counted.
    """

    def __init__(self, degrees: Degrees, order: str) -> None:
        self.degrees = degrees
        self.axes = ORDERS[order]
        self.sizes = axis_sizes(degrees)

    def place(self, rank: int) -> dict[str, int]:
        """Where a rank stands along each axis."""
        found = {}
        for axis in reversed(self.axes):
            rank, found[axis] = divmod(rank, self.sizes[axis])
        return found

    def rank(self, place: dict[str, int]) -> int:
        number = 0
        for axis in self.axes:
            number = number * self.sizes[axis] + place[axis]
        return number

    def group(self, axis: Axis, rank: int, *along: str) -> Group | None:
        """The ranks that differ from `rank` along these axes alone; None where there are none."""
        ranks = [rank]
        for one in along:
            places = [self.place(each) for each in ranks]
            ranks = [
                self.rank({**place, one: number})
                for place in places
                for number in range(self.sizes[one])
            ]
        ranks = sorted(ranks)
        return Group(axis, ranks, ranks.index(rank)) if len(ranks) > 1 else None

    def topology(self, rank: int, *, sequence_parallel: bool) -> Any:
        """The `Topology` of the rank's process when it has formed its groups."""
        from llm_pretrain.parallel.comm.topology import Topology

        place = self.place(rank)
        pipeline = self.group("pipeline", rank, "pipeline")
        tied = None
        if pipeline is not None and pipeline.rank in (0, pipeline.nranks - 1):
            ends = [pipeline.ranks[0], pipeline.ranks[-1]]
            tied = Group("pipeline", ends, ends.index(rank))
        return Topology(
            self.degrees,
            rank=rank,
            world_size=self.degrees.world_size,
            data_rank=place["data"],
            sharding_rank=place["sharding"],
            pipeline_rank=place["pipeline"],
            tensor_rank=place["tensor"],
            sequence_rank=place["sep"],
            data_group=self.group("data", rank, "data"),
            sharding_group=self.group("sharding", rank, "sharding"),
            pipeline_group=pipeline,
            tensor_group=self.group("tensor", rank, "tensor"),
            sequence_group=self.group("sequence", rank, "sep"),
            replica_group=self.group("replica", rank, "data", "sep"),
            tied_embedding_group=tied,
            message_groups=_message_groups(pipeline),
            reading_ranks=tuple(range(self.degrees.world_size)),
            sequence_parallel=sequence_parallel,
        )


def _message_groups(pipeline: Group | None) -> dict[Any, Group]:
    if pipeline is None:
        return {}
    kinds = ("input", "gradient")
    return {(kind, wraps): pipeline for kind in kinds for wraps in (False, True)}
