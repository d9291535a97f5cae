"""Lines of text between processes of a job, and who is at the other end, without Paddle."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass, field

from llm_pretrain.parallel.comm.places import Place

_LONGEST_LINE = 1 << 16


class Channel:
    """Lines of text over a connection, none of which is ever waited for."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self._rest = b""

    def receive(self) -> list[str]:
        """The lines that have come.

        Raises:
            OSError: the other side is gone, or is none of ours.
        """
        data = self.connection.recv(4096)
        if not data:
            raise ConnectionResetError("closed by the other side")
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            raise ConnectionAbortedError("a line without end")
        return [line.decode(errors="replace") for line in lines]

    def send(self, line: str) -> None:
        """Say a line; what a full or broken connection loses shows as silence over there."""
        with contextlib.suppress(OSError):
            self.connection.send(f"{line}\n".encode())


@dataclass
class Peer:
    """Another rank as it is seen from here."""

    rank: int
    host: str
    heard: float = field(default_factory=time.monotonic)
    closed: float | None = None
    channel: Channel | None = None
    place: Place = field(default_factory=Place)

    def describe(self, now: float) -> str:
        if self.closed is not None:
            state = f"whose connection closed {now - self.closed:.0f} s ago"
        else:
            state = f"silent for {now - self.heard:.0f} s"
        return f"rank {self.rank} on {self.host}, {state}"
