"""How the processes of a Gloo group find each other, each group in a store of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llm_pretrain.machine.sockets import (
    held_port,
    port_of,
    send_at_once,
    wait_until_listening,
)
from llm_pretrain.ops import internals
from llm_pretrain.parallel.comm import epochs, shared_memory
from llm_pretrain.parallel.comm.shared_memory import SharedMemory

_PAIR_GROUP_IDS_FROM = 1 << 20
"""Beyond those of Paddle's groups."""
_IDS_OF_AN_EPOCH = 1 << 21
_EPOCHS_WITH_IDS = 1000
"""Paddle keeps every group of a process by its number, of 31 bits, which is never free again; no
process lives through so many epochs."""

_create_group = internals.ProcessGroupGloo.create


Address = tuple[str, int]


@dataclass
class _Pair:
    """One direction between two ranks of a group."""

    common: Any
    key: str
    group_id: int = 0
    address: Address | None = None
    held: socket.socket | None = None
    group: Any = None


class Groups:
    """The stores and two-member groups of this process."""

    def __init__(self, timeout_seconds: int) -> None:
        self.timeout_seconds = timeout_seconds
        self.first_id = epochs.number() % _EPOCHS_WITH_IDS * _IDS_OF_AN_EPOCH
        self.stores: list[Any] = []
        self.common: dict[int, tuple[Any, int]] = {}
        self.pairs: dict[str, _Pair] = {}
        self.barriers: dict[int, int] = {}
        self.shared: dict[int, SharedMemory] = {}
        """What groups on one machine have, by the group."""

    def create(self, common: Any, rank: int, world_size: int, group_id: int = 0) -> Any:
        """A group in a store of its own; `common` is where all processes meet."""
        store = common
        if world_size > 1:
            if not self.stores:  # the common one has just been opened
                send_at_once()
            key = f"gloo/{group_id}"
            if rank == 0:
                with held_port() as held:
                    address = self._published(common, key, held)
                    store = self._opened(address, world_size, is_host=True)
            else:
                store = self._opened(self._looked_up(common, key), world_size, is_host=False)
        group = _create_group(store, rank, world_size, self.first_id + group_id)
        self.common[id(group)] = (common, group_id)
        memory = shared_memory.join(group, world_size, rank) if world_size > 1 else None
        if memory is not None:
            self.shared[id(group)] = memory
        return group

    def forget(self) -> None:
        """Let go of all groups and stores, which end with whoever holds them last."""
        for kept in (self.stores, self.common, self.pairs, self.barriers, self.shared):
            kept.clear()

    def sender(self, group: Any, destination: int) -> Callable[[], Any]:
        """What forms, or finds, the two-member group for messages to `destination` of `group`.

        Only the thread that owns the common store may call this; what is returned may be called in
        another, and waits for the receiver.
        """
        pair = self._pair(group, group.rank(), destination)
        if pair.group is None and pair.address is None:
            # A number that no other pair of the job has, the same on both sides.
            pair.group_id = _PAIR_GROUP_IDS_FROM + pair.common.add("gloo/pairs", 1)
            pair.common.set(f"{pair.key}/id", str(pair.group_id))
            pair.held = held_port()
            pair.address = self._published(pair.common, pair.key, pair.held)
        return lambda: self._formed(pair, 0)

    def receiver(self, group: Any, source: int) -> Any:
        """The two-member group for messages from `source` of `group`."""
        pair = self._pair(group, source, group.rank())
        if pair.group is None:
            pair.address = self._looked_up(pair.common, pair.key)
            pair.group_id = int(pair.common.get(f"{pair.key}/id"))
        return self._formed(pair, 1)

    def _pair(self, group: Any, source: int, destination: int) -> _Pair:
        common, group_id = self.common[id(group)]
        key = f"gloo/{group_id}/{source}/{destination}"
        return self.pairs.setdefault(key, _Pair(common, key))

    def _formed(self, pair: _Pair, rank: int) -> Any:
        if pair.group is None:
            assert pair.address is not None
            store = self._opened(pair.address, 2, is_host=rank == 0)
            if pair.held is not None:
                pair.held.close()
            pair.group = _create_group(store, rank, 2, self.first_id + pair.group_id)
        return pair.group

    def _published(self, common: Any, key: str, held: socket.socket) -> Address:
        """The address of a store that this process will host, known to all under `key`."""
        host = os.environ["PADDLE_CURRENT_ENDPOINT"].rpartition(":")[0]
        port = port_of(held)
        common.set(key, f"{host}:{port}")
        return host, port

    def _looked_up(self, common: Any, key: str) -> Address:
        host, _, port = common.get(key).decode().rpartition(":")
        wait_until_listening(host, int(port), self.timeout_seconds)
        return host, int(port)

    def _opened(self, address: Address, world_size: int, *, is_host: bool) -> Any:
        store = internals.TCPStore(*address, is_host, world_size, self.timeout_seconds)
        self.stores.append(store)
        send_at_once()
        return store

    def barrier(self, group: Any) -> None:
        """Wait through the store for as long as it takes; Gloo's own operations give up at 30 s."""
        if id(group) in self.shared:
            self.shared[id(group)].barrier()
            return
        common, group_id = self.common[id(group)]
        self.barriers[group_id] = number = self.barriers.get(group_id, 0) + 1
        key = f"gloo/barrier/{group_id}/{number}"
        if common.add(key, 1) == group.size():
            common.set(f"{key}/open", b"1")
        else:
            common.get(f"{key}/open")


def wait_for_first_rank(timeout_seconds: float) -> None:
    """Return once rank 0 of the job listens."""
    if os.environ["PADDLE_TRAINER_ID"] != "0":
        host, _, port = os.environ["PADDLE_MASTER"].rpartition(":")
        wait_until_listening(host, int(port), timeout_seconds)
