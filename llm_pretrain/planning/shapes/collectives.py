"""paddle.distributed: what ranks send each other is written down, and arrives at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_pretrain.planning.shapes import tensor as tensors
from llm_pretrain.planning.shapes.storage import Storage, recorder
from llm_pretrain.planning.shapes.tensor import Tensor
from llm_pretrain.planning.trace import Axis, Message, Wait


@dataclass(frozen=True)
class Group:
    """The ranks of an axis with which one rank communicates."""

    axis: Axis
    ranks: list[int]
    rank: int
    """Of this process, in the group."""

    @property
    def nranks(self) -> int:
        return len(self.ranks)


class Task:
    """What was begun."""

    def __init__(self, number: int | None) -> None:
        self.number = number

    def wait(self) -> bool:
        if self.number is not None:
            recorder.events.append(Wait(self.number))
            self.number = None
        return True

    def is_completed(self) -> bool:
        return True


class World:
    """The job of which this process is one rank."""

    size = 1
    rank = 0
    messages = 0
    ahead = 0
    """Messages that wait for their receiver when another is sent: as many as may at most."""
    sent = 0


world = World()


def _sent(kind: Any, size: int, group: Group | None, sync_op: bool) -> Task:
    axis, ranks = ("world", world.size) if group is None else (group.axis, group.nranks)
    number = None
    if not sync_op:
        world.messages += 1
        number = world.messages
    recorder.events.append(Message(kind, size, axis, ranks, number))  # type: ignore[arg-type]
    return Task(number)


def all_reduce(
    tensor: Tensor, op: Any = None, group: Group | None = None, sync_op: bool = True
) -> Task:
    wide = None
    if tensors.place.is_cpu_place() and tensor.dtype.name == "float16":
        wide = Storage(2 * tensor.bytes)  # see parallel/comm/gloo.py
    del wide
    return _sent("all-reduce", tensor.bytes, group, sync_op)


def broadcast(tensor: Tensor, src: int, group: Group, sync_op: bool = True) -> Task:
    return _sent("broadcast", tensor.bytes, group, sync_op)


class _Leaving(Task):
    """A message, which is there when enough others have been sent after it."""

    def __init__(self, number: int | None) -> None:
        super().__init__(number)
        world.sent += 1
        self.leaves = world.sent + world.ahead

    def is_completed(self) -> bool:
        return world.sent >= self.leaves


def send(tensor: Tensor, dst: int, group: Group, sync_op: bool = True) -> Task:
    return _Leaving(_sent("send", tensor.bytes, group, sync_op).number)


def recv(tensor: Tensor, src: int, group: Group, sync_op: bool = True) -> Task:
    return _sent("receive", tensor.bytes, group, sync_op)


def all_gather(whole: Tensor, part: Tensor, group: Group, sync_op: bool = True) -> Task:
    return _sent("all-gather", whole.bytes, group, sync_op)


def reduce_scatter(part: Tensor, whole: Tensor, group: Group, sync_op: bool = True) -> Task:
    if tensors.place.is_cpu_place():
        # Over Gloo each share is copied, and reduced to its owner (parallel/comm/gloo.py).
        wide = 2 if whole.dtype.name == "float16" else 1
        Storage(wide * whole.bytes // group.nranks)
    return _sent("reduce-scatter", whole.bytes, group, sync_op)


def alltoall_single(
    received: Tensor,
    sent: Tensor,
    into: Sequence[int] | None = None,
    out_of: Sequence[int] | None = None,
    group: Group | None = None,
    sync_op: bool = True,
) -> Task:
    return _sent("all-to-all", sent.bytes, group, sync_op)


def barrier() -> None:
    """Nothing to wait for."""


def is_initialized() -> bool:
    return world.size > 1


def get_rank() -> int:
    return world.rank


def get_world_size() -> int:
    return world.size
