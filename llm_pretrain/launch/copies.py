"""Copies of what a node's ranks have saved, in the memory of the next node.

When a checkpoint is published, each launcher sends the memories in which its ranks have left their
state (`checkpoint.host_memory`) to the launcher of the next node, whose ranks may read them: where
a machine is lost, its shards are there. A copy that is not whole is found by its checksum.

Over each connection goes one memory: 256 bytes of JSON, then what the memory holds. A token that
the job's first launcher draws for each epoch keeps out strangers, and nodes that are late. Ranks
read copies until they save for the first time in an epoch, and no copy changes before that.
"""

from __future__ import annotations

import hmac
import json
import os
import selectors
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from llm_pretrain.machine import free_memory
from llm_pretrain.machine.sockets import port_of

_CHUNK_BYTES = 1 << 22
"""The launcher looks after its ranks in between."""
_LINE_BYTES = 256
_MOST_OF_FREE_MEMORY = 0.8
_MOST_SILENT = 64
"""Connections over which nothing has been announced; of more, the oldest is closed."""


class Copies:
    """The memories of a node's ranks, those that it keeps for the node before it, and their way.

    Args:
        processes: on each node.
        is_alone: whether there is no other node.
    """

    def __init__(
        self, processes: int, selector: selectors.BaseSelector, *, is_alone: bool = False
    ) -> None:
        self.own = [os.memfd_create("llm_pretrain_state") for _ in range(processes)]
        self.kept = [] if is_alone else [os.memfd_create("llm_pretrain_copy") for _ in self.own]
        self._selector = selector
        self._token = ""
        self._next: tuple[str, int] | None = None
        self._ways: list[_Way] = []
        self._listener: socket.socket | None = None
        if not is_alone:
            self._listener = socket.create_server(("", 0), backlog=1024)
            self._listener.setblocking(False)
            selector.register(self._listener, selectors.EVENT_READ, self._accept)

    @property
    def port(self) -> int:
        """Where the launcher of the node before this one comes."""
        assert self._listener is not None
        return port_of(self._listener)

    def begin(self, token: str, nodes: Mapping[int, tuple[str, int]], node: int) -> None:
        """Begin an epoch: nothing comes or goes until it has saved a checkpoint.

        Args:
            nodes: where those that take part are listening for copies.
            node: this one.
        """
        while self._ways:
            self._ways[0].close()
        others = sorted(nodes, key=lambda other: (other <= node, other))
        is_taking_part = node in nodes and len(nodes) > 1
        self._token, self._next = token, nodes[others[0]] if is_taking_part else None

    def send(self) -> None:
        """Send what the ranks of this node have saved to the next node, beside what is going on.

        What is still on its way of an earlier checkpoint is given up.
        """
        for way in [way for way in self._ways if isinstance(way, _Outgoing)]:
            way.close()
        for number, memory in enumerate(self.own):
            if self._next is not None and os.fstat(memory).st_size:
                connection = socket.socket()
                connection.setblocking(False)
                connection.connect_ex(self._next)
                said = {"token": self._token, "number": number, "size": os.fstat(memory).st_size}
                self._open(_Outgoing(self, connection, memory, said), selectors.EVENT_WRITE)

    def place_for(self, said: Mapping[str, Any]) -> int | None:
        """The memory for a copy that a line announces; None where it is refused.

        Raises:
            ValueError, LookupError, TypeError: the line is of no such node.
        """
        number, size, token = int(said["number"]), int(said["size"]), str(said["token"])
        is_ours = bool(self._token) and hmac.compare_digest(token.encode(), self._token.encode())
        if not is_ours or not 0 <= number < len(self.kept) or size <= 0:
            return None
        memory = self.kept[number]
        if size - os.fstat(memory).st_size > _MOST_OF_FREE_MEMORY * free_memory():
            return None
        os.ftruncate(memory, size)
        return memory

    def close(self) -> None:
        """Give the memories back."""
        while self._ways:
            self._ways[0].close()
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
        for memories in (self.own, self.kept):
            while memories:
                os.close(memories.pop())

    def _accept(self) -> None:
        assert self._listener is not None
        with suppress(OSError):
            connection = self._listener.accept()[0]
            connection.setblocking(False)
            self._open(_Incoming(self, connection), selectors.EVENT_READ)
        silent = [way for way in self._ways if isinstance(way, _Incoming) and way.memory is None]
        if len(silent) > _MOST_SILENT + len(self.kept):
            silent[0].close()

    def _open(self, way: _Way, event: int) -> None:
        self._ways.append(way)
        self._selector.register(way.connection, event, way.go_on)

    def forget(self, way: _Way) -> None:
        self._ways.remove(way)
        self._selector.unregister(way.connection)


class _Way(ABC):
    """One memory, on its way over a connection."""

    def __init__(self, copies: Copies, connection: socket.socket) -> None:
        self.copies, self.connection = copies, connection

    def go_on(self) -> None:
        """Move a part of it; the connection is ready, unless it was closed in the meantime."""
        if self.connection.fileno() < 0:
            return
        try:
            if not self._move():
                self.close()
        except BlockingIOError:
            return
        except (OSError, ValueError, LookupError, TypeError):
            self.close()

    @abstractmethod
    def _move(self) -> bool:
        """Move a part; whether there is more."""

    def close(self) -> None:
        self.copies.forget(self)
        self.connection.close()


class _Outgoing(_Way):
    def __init__(
        self, copies: Copies, connection: socket.socket, memory: int, said: Mapping[str, Any]
    ) -> None:
        super().__init__(copies, connection)
        self.memory, self.size, self.sent = memory, int(said["size"]), 0
        self.line = json.dumps(said).encode().ljust(_LINE_BYTES)

    def _move(self) -> bool:
        if self.line:
            self.line = self.line[self.connection.send(self.line) :]
            return True
        count = min(_CHUNK_BYTES, self.size - self.sent)
        moved = os.sendfile(self.connection.fileno(), self.memory, self.sent, count)
        self.sent += moved
        return bool(moved) and self.sent < self.size


class _Incoming(_Way):
    def __init__(self, copies: Copies, connection: socket.socket) -> None:
        super().__init__(copies, connection)
        self.line = b""
        self.memory: int | None = None
        self.size = self.received = 0

    def _move(self) -> bool:
        if self.memory is not None:
            data = self.connection.recv(min(_CHUNK_BYTES, self.size - self.received))
            os.pwrite(self.memory, data, self.received)
            self.received += len(data)
            return bool(data) and self.received < self.size
        data = self.connection.recv(_LINE_BYTES - len(self.line))
        self.line += data
        if len(self.line) < _LINE_BYTES:
            return bool(data)
        said = json.loads(self.line)
        self.memory, self.size = self.copies.place_for(said), int(said["size"])
        return self.memory is not None
