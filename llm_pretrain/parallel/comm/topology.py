"""Which process is which: the ranks and groups of a layout, formed by Fleet."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import paddle
import paddle.distributed as dist

from llm_pretrain import machine
from llm_pretrain.config import Degrees
from llm_pretrain.machine import device, launchers
from llm_pretrain.ops import internals
from llm_pretrain.parallel.comm import epochs, lost_peer
from llm_pretrain.parallel.comm.collectives import Group, all_reduce
from llm_pretrain.parallel.comm.gloo_groups import wait_for_first_rank
from llm_pretrain.parallel.comm.meeting import met

_ORDERS = {
    "pp_first": ["dp", "pp", "sharding", "sep", "mp"],
    "sharding_first": ["dp", "sharding", "pp", "sep", "mp"],
}

MessageKind = Literal["input", "gradient"]
"""What ranks of a pipeline send each other."""
MessageGroups = Mapping[tuple[MessageKind, bool], Group]
"""By kind, and whether the message passes between the last rank and the first."""


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
    sequence_rank: int = 0
    data_group: Group = None
    sharding_group: Group = None
    pipeline_group: Group = None
    tensor_group: Group = None
    sequence_group: Group = None
    """Ranks that hold parts of the same sequences: the sep or the context axis."""
    replica_group: Group = None
    """Ranks that hold the same shard of the same weights: data parallel times sequence."""
    tied_embedding_group: Group = None
    """The first and the last stage of this process's pipeline."""
    message_groups: MessageGroups = field(default_factory=dict)
    """The ranks of this process's pipeline, for each kind of message."""
    sample_group: Group = None
    """Ranks that get the same samples, if the first of them reads for all."""
    reading_ranks: tuple[int, ...] = (0,)
    """The global ranks that read samples, in rising order."""
    sequence_parallel: bool = False
    """Whether the tensor-parallel group splits sequences between its linear layers."""

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

    def sum_over_batch(self, total: paddle.Tensor) -> paddle.Tensor:
        """Sum, in place, over the ranks that read different samples or parts of samples."""
        return all_reduce(all_reduce(total, self.replica_group), self.sharding_group)


_ALONE = Topology(
    Degrees(data=1, sharding=1, tensor=1, pipeline=1, sep=1, context=1, virtual_pipeline=1)
)
_current = _ALONE


def current() -> Topology:
    """The layout of this job; a single process before `initialize`."""
    return _current


@contextmanager
def at(place: Topology) -> Iterator[None]:
    """Be, within the block, at a place in a layout whose groups nobody forms."""
    global _current
    before, _current = _current, place
    try:
        yield
    finally:
        _current = before


def world_size() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def initialize(
    degrees: Degrees, *, order: str = "pp_first", timeout_seconds: int = 1800
) -> Topology:
    """Form the groups of `degrees` over the processes that the launcher started.

    Over Gloo on CPUs, over NCCL on GPUs, and over what Paddle has for other devices. Must be called
    once in an epoch, by every process.

    Raises:
        MeetingError: they are not all there within `timeout_seconds`.
    """
    global _current
    if world_size() == 1:
        _current = Topology(degrees)
        return _current
    with met(timeout_seconds, doubt=launchers.unlaunched(os.environ)):
        if device.kind() == "cpu":
            from llm_pretrain.parallel.comm import gloo

            gloo.install(timeout_seconds)
            if epochs.number():
                internals.open_job_stores_anew()
            os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
        wait_for_first_rank(timeout_seconds)
        from paddle.distributed import fleet

        if machine.paddle_is_quiet():
            fleet.utils.log_util.set_log_level("WARNING")
            internals.print_no_modified_flags()
        strategy = fleet.DistributedStrategy()
        strategy.hybrid_configs = {
            "dp_degree": degrees.data,
            "mp_degree": degrees.tensor,
            "pp_degree": degrees.pipeline,
            "sharding_degree": degrees.sharding,
            "sep_degree": degrees.sequence,
            "order": _ORDERS[order],
        }
        level = "WARNING" if machine.paddle_is_quiet() else "INFO"
        fleet.init(is_collective=True, strategy=strategy, log_level=level)
    fleet_groups = fleet.get_hybrid_communicate_group()

    def unless_alone(group: Group) -> Group:
        return group if group.nranks > 1 else None

    data_group = unless_alone(fleet_groups.get_data_parallel_group())
    sequence_group = None
    if degrees.sequence > 1:
        sequence_group = fleet_groups.get_sep_parallel_group()
    pipelines = fleet_groups.topology().get_comm_list("pipe")
    pipeline_group = unless_alone(fleet_groups.get_pipe_parallel_group())
    _current = Topology(
        degrees,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        data_rank=fleet_groups.get_data_parallel_rank(),
        sharding_rank=fleet_groups.get_sharding_parallel_rank(),
        pipeline_rank=fleet_groups.get_stage_id(),
        tensor_rank=fleet_groups.get_model_parallel_rank(),
        sequence_rank=sequence_group.rank if sequence_group is not None else 0,
        data_group=data_group,
        sharding_group=unless_alone(fleet_groups.get_sharding_parallel_group()),
        pipeline_group=pipeline_group,
        tensor_group=unless_alone(fleet_groups.get_model_parallel_group()),
        sequence_group=sequence_group,
        replica_group=_replica_group(fleet_groups.topology(), data_group, sequence_group),
        tied_embedding_group=_group_with_this_rank(
            [ranks[0], ranks[-1]] for ranks in pipelines if len(ranks) > 1
        ),
        message_groups=_message_groups(pipelines, pipeline_group, degrees),
    )
    return _current


def leave() -> None:
    """Part from the groups of an epoch that is over; `initialize` may be called again then."""
    global _current
    _current = _ALONE
    lost_peer.abandon_watch()
    # Paddle imports them where there are groups, and this may be called before there were any.
    if "paddle.distributed.fleet" in sys.modules:
        from llm_pretrain.parallel.comm import gloo

        gloo.uninstall()
        internals.forget_groups()


def use(*, sequence_parallel: bool, shared_samples: bool = False) -> Topology:
    """Choose what may differ between models that train in the same groups, one after another.

    `shared_samples`: of the ranks that get the same samples one reads them. Every process must
    call this alike.
    """
    global _current
    groups = _ranks_of_same_samples() if shared_samples else []
    _current = replace(
        _current,
        sequence_parallel=sequence_parallel,
        sample_group=_group_with_this_rank(groups),
        reading_ranks=tuple(sorted(ranks[0] for ranks in groups))
        or tuple(range(_current.world_size)),
    )
    return _current


def _ranks_of_same_samples() -> list[list[int]]:
    """Ranks that differ in their part of the model or of the sequences only; [] if none do."""
    batch_degree = _current.batch_degree
    if _current.world_size == batch_degree:
        return []
    from paddle.distributed import fleet

    places = fleet.get_hybrid_communicate_group().topology()
    groups: dict[tuple[int, int], list[int]] = {}
    for rank in range(_current.world_size):
        place = places.get_coord(rank)
        groups.setdefault((place.data, place.sharding), []).append(rank)
    return list(groups.values())


def _replica_group(places: Any, data_group: Group, sequence_group: Group) -> Group:
    if data_group is None or sequence_group is None:
        return data_group or sequence_group
    groups: dict[tuple[int, int, int], list[int]] = {}
    for rank in range(dist.get_world_size()):
        place = places.get_coord(rank)
        groups.setdefault((place.pipe, place.sharding, place.model), []).append(rank)
    return _group_with_this_rank(groups.values())


def _message_groups(
    pipelines: list[list[int]], pipeline_group: Group, degrees: Degrees
) -> MessageGroups:
    """Groups in which messages between two ranks go in one direction only.

    Over NCCL two ranks of a group have one queue for both directions, where a message whose time
    has not come would hold up those that go the other way.
    """
    if degrees.pipeline == 1:
        return {}
    inputs, gradients = pipeline_group, _group_with_this_rank(pipelines)
    wrapped_inputs, wrapped_gradients = inputs, gradients
    # Of two ranks each is before and after the other.
    if degrees.pipeline == 2 and degrees.virtual_pipeline > 1:
        wrapped_inputs = _group_with_this_rank(pipelines)
        wrapped_gradients = _group_with_this_rank(pipelines)
    return {
        ("input", False): inputs,
        ("input", True): wrapped_inputs,
        ("gradient", False): gradients,
        ("gradient", True): wrapped_gradients,
    }


def _group_with_this_rank(groups: Iterable[list[int]]) -> Group:
    """Form every group, as all processes must, and return the one that this process is in."""
    mine = None
    for ranks in groups:
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            mine = group
    return mine
