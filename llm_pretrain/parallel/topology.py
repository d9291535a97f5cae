"""Which process is which: the ranks and groups of a layout, formed by Fleet."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import paddle
import paddle.distributed as dist

from llm_pretrain.config import Degrees
from llm_pretrain.parallel.collectives import Group

_ORDERS = {
    "pp_first": ["dp", "pp", "sharding", "sep", "mp"],
    "sharding_first": ["dp", "sharding", "pp", "sep", "mp"],
}


@dataclass(frozen=True)
class Topology:
    """This process's place in the layout. Groups of one process are None."""

    degrees: Degrees
    rank: int = 0
    world_size: int = 1
    data_rank: int = 0
    sharding_rank: int = 0
    pipeline_rank: int = 0
    tensor_rank: int = 0
    data_group: Group = None
    sharding_group: Group = None
    pipeline_group: Group = None
    tensor_group: Group = None
    tied_embedding_group: Group = None
    """The first and the last stage of this process's pipeline."""

    @property
    def batch_degree(self) -> int:
        """How many ranks read different samples: data parallel times sharding."""
        return self.degrees.data * self.degrees.sharding

    @property
    def batch_rank(self) -> int:
        return self.data_rank * self.degrees.sharding + self.sharding_rank

    @property
    def is_first_stage(self) -> bool:
        return self.pipeline_rank == 0

    @property
    def is_last_stage(self) -> bool:
        return self.pipeline_rank == self.degrees.pipeline - 1


_current = Topology(
    Degrees(data=1, sharding=1, tensor=1, pipeline=1, sep=1, context=1, virtual_pipeline=1)
)


def current() -> Topology:
    """The layout of this job; a single process before `initialize`."""
    return _current


def world_size() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def initialize(
    degrees: Degrees, *, order: str = "pp_first", timeout_seconds: int = 1800
) -> Topology:
    """Form the groups of `degrees` over the processes that the launcher started.

    Over NCCL on GPUs and over Gloo on CPUs. Must be called once, by every process.
    """
    global _current
    if world_size() == 1:
        _current = Topology(degrees)
        return _current
    if paddle.device.get_device().startswith("cpu"):
        from llm_pretrain.parallel import gloo

        gloo.install(timeout_seconds)
        gloo.wait_for_first_rank(timeout_seconds)
    from paddle.distributed import fleet

    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = {
        "dp_degree": degrees.data,
        "mp_degree": degrees.tensor,
        "pp_degree": degrees.pipeline,
        "sharding_degree": degrees.sharding,
        "sep_degree": degrees.sep,
        "order": _ORDERS[order],
    }
    fleet.init(is_collective=True, strategy=strategy, log_level="WARNING")
    fleet_groups = fleet.get_hybrid_communicate_group()

    def unless_alone(group: Group) -> Group:
        return group if group.nranks > 1 else None

    pipeline_group = unless_alone(fleet_groups.get_pipe_parallel_group())
    _current = Topology(
        degrees,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        data_rank=fleet_groups.get_data_parallel_rank(),
        sharding_rank=fleet_groups.get_sharding_parallel_rank(),
        pipeline_rank=fleet_groups.get_stage_id(),
        tensor_rank=fleet_groups.get_model_parallel_rank(),
        data_group=unless_alone(fleet_groups.get_data_parallel_group()),
        sharding_group=unless_alone(fleet_groups.get_sharding_parallel_group()),
        pipeline_group=pipeline_group,
        tensor_group=unless_alone(fleet_groups.get_model_parallel_group()),
        tied_embedding_group=_tied_embedding_group(fleet_groups),
    )
    return _current


def _tied_embedding_group(fleet_groups: Any) -> Group:
    """First and last stage of this process's pipeline; None on the stages between."""
    mine = None
    for ranks in fleet_groups.topology().get_comm_list("pipe"):
        if len(ranks) > 1:
            group = dist.new_group([ranks[0], ranks[-1]])
            if dist.get_rank() in (ranks[0], ranks[-1]):
                mine = group
    return mine
