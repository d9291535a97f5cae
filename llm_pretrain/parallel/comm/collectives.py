"""The collectives that the program uses, each in one place.

A group of one process (or None) communicates nothing. Calls are blocking in the order of the
calling stream, over NCCL and over Gloo alike. An asynchronous one goes on beside the computation;
its tensors may not be touched before it was waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.autograd import PyLayer

from llm_pretrain.machine import device
from llm_pretrain.parallel.comm.progress import waiting

Group = Any
"""paddle.distributed's group, or None for a process that is alone."""
_Map = Callable[[paddle.Tensor], paddle.Tensor]


class Task(Protocol):
    """An operation that was started."""

    def wait(self) -> Any:
        """Return when it is done (on a GPU: let the calling stream wait for it)."""

    def is_completed(self) -> bool:
        """Whether it is done."""


class _Done:
    def wait(self) -> None:
        return None

    def is_completed(self) -> bool:
        return True


class _Marked:
    """A task; whoever waits for it is seen to wait."""

    def __init__(self, task: Task, name: str) -> None:
        self.task, self.name = task, name

    def wait(self) -> Any:
        with waiting(self.name):
            return self.task.wait()

    def is_completed(self) -> bool:
        return self.task.is_completed()


def _named(operation: str, group: Group) -> str:
    ranks = ", ".join(map(str, group.ranks[:8])) + (" …" if group.nranks > 8 else "")
    return f"{operation} of ranks {ranks}"


def _begun(operation: str, group: Group, begin: Callable[[], Task]) -> Task:
    name = _named(operation, group)
    with waiting(name):
        task = begin()
    return _Marked(task, name)


class Arriving:
    """A tensor that a collective makes; what it is made of lives until it is there."""

    def __init__(self, tensor: paddle.Tensor, task: Task, *sources: paddle.Tensor) -> None:
        self.tensor, self.task, self.sources = tensor, task, sources

    def wait(self) -> paddle.Tensor:
        """The tensor, for whatever the caller computes from now on."""
        self.task.wait()
        self.sources = ()
        return self.tensor


def overlap() -> bool:
    """Whether collectives go on beside the computation wherever they can, unasked.

    An accelerator has streams for them. Over Gloo a thread would take the processor from the
    products that it runs beside.
    """
    return device.kind() != "cpu"


_OPERATIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}


def is_alone(group: Group) -> bool:
    return group is None or group.nranks == 1


def all_reduce(tensor: paddle.Tensor, group: Group, operation: str = "sum") -> paddle.Tensor:
    """Reduce `tensor` over the group, in place, and return it."""
    if not is_alone(group):
        with waiting(_named("all-reduce", group)):
            dist.all_reduce(tensor, op=_OPERATIONS[operation], group=group)
    return tensor


def start_all_reduce(tensor: paddle.Tensor, group: Group, *, asynchronous: bool = True) -> Task:
    """Begin to sum `tensor` over the group, in place."""
    if is_alone(group):
        return _Done()
    return _begun(
        "all-reduce",
        group,
        lambda: dist.stream.all_reduce(tensor, group=group, sync_op=not asynchronous),
    )


def broadcast(tensor: paddle.Tensor, source: int, group: Group) -> paddle.Tensor:
    """Give every rank of the group the tensor of global rank `source`, in place."""
    if not is_alone(group):
        with waiting(_named("broadcast", group)):
            dist.broadcast(tensor, src=source, group=group)
    return tensor


def start_send(tensor: paddle.Tensor, destination: int, group: Group) -> Task:
    """Begin to send to global rank `destination` of the group; `tensor` must live until then."""
    task = dist.stream.send(tensor, dst=destination, group=group, sync_op=False)
    return _Marked(task, f"message to rank {destination}")


def start_receive(
    tensor: paddle.Tensor, source: int, group: Group, *, asynchronous: bool = True
) -> Arriving:
    """Begin to fill `tensor` with what global rank `source` of the group sends."""
    name = f"message from rank {source}"
    with waiting(name):
        task = dist.stream.recv(tensor, src=source, group=group, sync_op=not asynchronous)
    return Arriving(tensor, _Marked(task, name))


def all_gather(tensor: paddle.Tensor, group: Group) -> paddle.Tensor:
    """Concatenate the ranks' tensors [n, ...] to [degree * n, ...]."""
    if is_alone(group):
        return tensor
    gathered = paddle.empty([group.nranks * tensor.shape[0], *tensor.shape[1:]], tensor.dtype)
    with waiting(_named("all-gather", group)):
        dist.stream.all_gather(gathered, tensor, group=group, sync_op=True)
    return gathered


def all_gather_into(
    whole: paddle.Tensor, part: paddle.Tensor, group: Group, *, asynchronous: bool = False
) -> Task:
    """Fill `whole` [degree * n] with the ranks' parts [n]; `part` may lie inside `whole`."""
    if is_alone(group):
        return _Done()
    return _begun(
        "all-gather",
        group,
        lambda: dist.stream.all_gather(whole, part, group=group, sync_op=not asynchronous),
    )


def reduce_scatter(
    part: paddle.Tensor, whole: paddle.Tensor, group: Group, *, asynchronous: bool = False
) -> Task:
    """Sum `whole` [degree * n] over the ranks and leave this rank's `part` [n] of it.

    `part` may lie inside `whole`; the rest of `whole` is undefined afterwards.
    """
    if is_alone(group):
        return _Done()
    return _begun(
        "reduce-scatter",
        group,
        lambda: dist.stream.reduce_scatter(part, whole, group=group, sync_op=not asynchronous),
    )


def all_to_all(tensor: paddle.Tensor, group: Group) -> paddle.Tensor:
    """Row i of `tensor` [degree, ...] goes to rank i; the result's row i came from rank i."""
    if is_alone(group):
        return tensor
    received = paddle.empty_like(tensor)
    with waiting(_named("all-to-all", group)):
        dist.stream.alltoall_single(received, tensor, group=group, sync_op=True)
    return received


def start_shift(tensor: paddle.Tensor, group: Group) -> Arriving:
    """Begin to send `tensor` to the next rank of a ring, and to receive the previous one's.

    One all-to-all of uneven parts: over NCCL two ranks that send to each other first, and then
    receive, would wait for each other.
    """
    received = paddle.empty_like(tensor)
    ahead, behind = [0] * group.nranks, [0] * group.nranks
    ahead[(group.rank + 1) % group.nranks] = tensor.shape[0]
    behind[(group.rank - 1) % group.nranks] = tensor.shape[0]
    name = _named("shift in a ring", group)
    with waiting(name):
        task = dist.stream.alltoall_single(received, tensor, behind, ahead, group, sync_op=False)
    return Arriving(received, _Marked(task, name), tensor)


def barrier() -> None:
    """Wait for every process of the job."""
    if dist.is_initialized():
        with waiting("barrier of all ranks"):
            dist.barrier()


def all_reduce_world(tensor: paddle.Tensor, operation: str = "sum") -> paddle.Tensor:
    """Reduce over every process of the job, in place, and return the tensor."""
    if dist.is_initialized():
        with waiting("all-reduce of all ranks"):
            dist.all_reduce(tensor, op=_OPERATIONS[operation])
    return tensor


def read(tensor: paddle.Tensor) -> list[float]:
    """A tensor's numbers: where host and device meet, and the device is where its peers are."""
    with waiting("what the device computes"):
        numbers: list[float] = tensor.tolist()
    return numbers


def all_gather_text(text: str, group: Group) -> list[str]:
    """Every rank's text, in the order of the ranks."""
    if is_alone(group):
        return [text]
    encoded = np.frombuffer(text.encode(), dtype=np.uint8)
    sizes = all_gather(paddle.to_tensor([len(encoded)], dtype="int64"), group).tolist()
    # Gloo divides by the number of values.
    padded = np.zeros(max(*sizes, 1), dtype=np.uint8)
    padded[: len(encoded)] = encoded
    rows = all_gather(paddle.to_tensor(padded), group).numpy().reshape(len(sizes), -1)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def gather_texts(text: str) -> list[str]:
    """The text of every process of the job, in the order of the ranks."""
    return all_gather_text(text, dist.get_group() if dist.is_initialized() else None)


class _Dual(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, forward: _Map, backward: _Map) -> paddle.Tensor:
        ctx.backward = backward
        return forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        return ctx.backward(gradient)


def dual(forward: _Map, backward: _Map) -> _Map:
    """A linear map of a tensor by collectives, differentiable: `backward` maps its gradient."""
    return lambda x: _Dual.apply(x, forward, backward)
