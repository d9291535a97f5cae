"""What Paddle's collectives over Gloo lack, supplied so that every layout runs on CPU processes.

Five things (Paddle 3.3):

- All groups meet in one store, under keys that carry no group's name, so that with more than two
  processes they read one another's stale addresses. Here each group meets in a store of its own.
- `reduce_scatter` is not implemented. Here each part is reduced to its owner.
- float16 is reduced wrongly: 1 + 2 is inf. Here it is reduced in float32.
- Gloo tells messages apart by counting a group's calls, which must therefore come in one order on
  all its ranks. In a pipeline they don't. Here each direction between two ranks has its own group.
- Any operation gives up after 30 s. Here at least a barrier waits, so that ranks can meet again
  after work that only some of them do.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import paddle
from paddle.base import core

_PAIR_GROUP_IDS_FROM = 1 << 20
_MAX_RANKS = 1 << 12

_create_group = core.ProcessGroupGloo.create
_all_reduce = core.ProcessGroupGloo.all_reduce
_send = core.ProcessGroupGloo.send
_recv = core.ProcessGroupGloo.recv


class _Meetings:
    """The stores and two-member groups of this process."""

    def __init__(self, timeout_seconds: int) -> None:
        self.timeout_seconds = timeout_seconds
        self.stores: list[Any] = []
        self.common: dict[int, tuple[Any, int]] = {}
        self.pairs: dict[tuple[int, int, int], Any] = {}
        self.barriers: dict[int, int] = {}

    def own_store(self, common: Any, name: str, is_host: bool, world_size: int) -> Any:
        """A store for one group alone; its address is published in the common store."""
        key = f"gloo/{name}"
        if is_host:
            host = os.environ["PADDLE_CURRENT_ENDPOINT"].rpartition(":")[0]
            port = _free_port()
            common.set(key, f"{host}:{port}")
        else:
            host, _, port = common.get(key).decode().rpartition(":")
            wait_until_listening(host, int(port), self.timeout_seconds)
        store = core.TCPStore(host, int(port), is_host, world_size, self.timeout_seconds)
        self.stores.append(store)
        return store

    def group(self, common: Any, rank: int, world_size: int, group_id: int = 0) -> Any:
        store = common
        if world_size > 1:
            store = self.own_store(common, str(group_id), rank == 0, world_size)
        group = _create_group(store, rank, world_size, group_id)
        self.common[id(group)] = (common, group_id)
        return group

    def pair(self, group: Any, source: int, destination: int) -> Any:
        """The two-member group for messages from `source` to `destination` of `group`."""
        common, group_id = self.common[id(group)]
        key = (group_id, source, destination)
        if key not in self.pairs:
            sends = group.rank() == source
            store = self.own_store(common, f"{group_id}/{source}/{destination}", sends, 2)
            pair_id = _PAIR_GROUP_IDS_FROM + (
                (group_id * _MAX_RANKS + source) * _MAX_RANKS + destination
            ) % (1 << 30)
            self.pairs[key] = _create_group(store, 0 if sends else 1, 2, pair_id)
        return self.pairs[key]

    def barrier(self, group: Any) -> _Done:
        """Wait through the store for as long as it takes; Gloo's own operations give up at 30 s."""
        common, group_id = self.common[id(group)]
        self.barriers[group_id] = number = self.barriers.get(group_id, 0) + 1
        key = f"gloo/barrier/{group_id}/{number}"
        if common.add(key, 1) == group.size():
            common.set(f"{key}/open", b"1")
        common.get(f"{key}/open")
        return _Done()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def wait_until_listening(host: str, port: int, timeout_seconds: float) -> None:
    """Return once a connection is accepted; Paddle's own client would sleep for 3 s in between.

    Raises:
        TimeoutError: nobody listened within `timeout_seconds`.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"No answer from {host}:{port} within {timeout_seconds:.0f} s: {error}. "
                    "Is the process of rank 0 running, and is that port open between the nodes?"
                ) from error
            time.sleep(0.02)


class _Done:
    """The task of an operation that has ended."""

    def wait(self) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def synchronize(self) -> None:
        return None


def _all_reduce_of_any_dtype(
    group: Any, tensor: Any, operation: Any = core.ReduceOp.SUM, sync_op: bool = True
) -> Any:
    if tensor.dtype != paddle.float16:
        return _all_reduce(group, tensor, operation, sync_op)
    wide = tensor.astype("float32")
    _all_reduce(group, wide, operation, True).wait()
    tensor.copy_(wide.astype("float16"), True)
    return _Done()


def _reduce_scatter(
    group: Any, part: Any, whole: Any, operation: Any = core.ReduceOp.SUM, sync_op: bool = True
) -> _Done:
    size = whole.shape[0] // group.size()
    for owner in range(group.size()):
        share = whole[owner * size : (owner + 1) * size]
        share = share.astype("float32") if whole.dtype == paddle.float16 else share.clone()
        group.reduce(share, owner, operation, True).wait()
        if owner == group.rank():
            part.copy_(share.astype(part.dtype).reshape(part.shape), True)
    return _Done()


def wait_for_first_rank(timeout_seconds: float) -> None:
    """Return once rank 0 of the job listens."""
    if os.environ["PADDLE_TRAINER_ID"] != "0":
        first = os.environ["PADDLE_TRAINER_ENDPOINTS"].split(",")[0]
        host, _, port = (os.environ.get("PADDLE_MASTER") or first).rpartition(":")
        wait_until_listening(host, int(port), timeout_seconds)


def install(timeout_seconds: int) -> None:
    """Complete `paddle.distributed` over Gloo. Call once, before the first group is formed."""
    meetings = _Meetings(timeout_seconds)
    process_group: Any = core.ProcessGroupGloo
    process_group.create = staticmethod(meetings.group)
    process_group.all_reduce = _all_reduce_of_any_dtype
    process_group.reduce_scatter_tensor = _reduce_scatter
    process_group.send = lambda group, tensor, destination, sync_op=True: _send(
        meetings.pair(group, group.rank(), destination), tensor, 1, True
    )
    process_group.recv = lambda group, tensor, source, sync_op=True: _recv(
        meetings.pair(group, source, group.rank()), tensor, 0, True
    )
    process_group.barrier = lambda group, *_: meetings.barrier(group)
