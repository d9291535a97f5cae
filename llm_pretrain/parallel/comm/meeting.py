"""The ranks of a job meet at its start, within a time, or else are told who stayed away.

Paddle's own start waits without a word, and aborts where its port is in use. Here rank 0 listens
at the job's address first; the others come there, and all go to Paddle's store together.

What comes over the network is a line of JSON; whoever says anything else is dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from llm_pretrain.machine.launchers import hosts_of_ranks
from llm_pretrain.machine.sockets import held_port, port_of
from llm_pretrain.machine.terminal import say

PATIENCE_SECONDS = 20.0
"""How long ranks of one machine that no launcher started wait for one another at most."""
_SAY_AFTER_SECONDS = 10.0
_LINE_SECONDS = 5.0
_LONGEST_LINE = 1 << 22
# Rank 0 gives up before the others do, and tells them who is missing.
_FIRST_RANKS_SHARE = 0.9


class MeetingError(RuntimeError):
    """The ranks of a job did not come together; the message says which are missing."""


@dataclass
class Address:
    """Where the ranks meet, and until when (by `time.monotonic`)."""

    host: str
    port: int
    deadline: float

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def left(self, most: float = float("inf")) -> float:
        """The seconds that are left, at least a few."""
        return max(0.05, min(most, self.deadline - time.monotonic()))

    def is_over(self) -> bool:
        return time.monotonic() >= self.deadline


@contextlib.contextmanager
def met(timeout_seconds: float, *, doubt: str = "") -> Iterator[None]:
    """Begin when all ranks of the job are there, and keep the port of Paddle's store until the end.

    PADDLE_TRAINER_ENDPOINTS says then where they are, and PADDLE_MASTER where Paddle's store is to
    be. `doubt` is why there may be no others at all; it shortens the wait for those of one machine,
    and ends the message.

    Raises:
        MeetingError: a rank is missing, or is there twice, or the port is in use.
    """
    rank, size = int(os.environ["PADDLE_TRAINER_ID"]), int(os.environ["PADDLE_TRAINERS_NUM"])
    endpoints = os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").split(",")
    host, _, port = (os.environ.get("PADDLE_MASTER") or endpoints[0]).rpartition(":")
    if not port.isdigit():
        raise MeetingError(f"PADDLE_MASTER is {host}:{port}, which has no port. {doubt}".strip())
    hosts = set(hosts_of_ranks(os.environ))
    is_short = bool(doubt) and len(hosts) == 1
    seconds = min(timeout_seconds, PATIENCE_SECONDS) if is_short else timeout_seconds
    if rank == 0:
        seconds *= _FIRST_RANKS_SHARE
    address = Address(host, int(port), time.monotonic() + seconds)
    with held_port() as held:
        gathering = Gathering(address, size, port_of(held))
        try:
            agreed = gathering.hold() if rank == 0 else join(address, rank, size)
        except MeetingError as error:
            raise MeetingError(f"{error} {doubt}".strip()) from error
        os.environ["PADDLE_TRAINER_ENDPOINTS"] = str(agreed["endpoints"])
        os.environ["PADDLE_MASTER"] = f"{host}:{agreed['port']}"
        yield


@dataclass
class Gathering:
    """Rank 0's part: hear every other rank, then tell them all what all have said, and the port
    of Paddle's store."""

    address: Address
    size: int
    store_port: int
    endpoints: dict[int, str] = field(
        default_factory=lambda: {0: os.environ["PADDLE_CURRENT_ENDPOINT"]}
    )
    connections: dict[int, socket.socket] = field(default_factory=dict)

    def hold(self) -> dict[str, Any]:
        try:
            listener = socket.create_server(("", self.address.port), backlog=4096)
        except OSError as error:
            raise MeetingError(
                f"The processes of this job can't meet at {self.address}: {error.strerror}. "
                "Another job may have that port; give this one another: --master HOST:PORT to "
                "Paddle's launcher, --master_port PORT to torchrun, MASTER_PORT to srun and mpirun."
            ) from error
        with listener:
            try:
                self._hear_all(listener)
                agreed = {
                    "endpoints": ",".join(self.endpoints[rank] for rank in range(self.size)),
                    "port": self.store_port,
                }
            except MeetingError as error:
                self._tell({"error": str(error)})
                raise
        self._tell(agreed)
        return agreed

    def _hear_all(self, listener: socket.socket) -> None:
        say_at = time.monotonic() + _SAY_AFTER_SECONDS
        while len(self.endpoints) < self.size:
            if self.address.is_over():
                raise MeetingError(
                    f"{self._missing()}: nothing heard at {self.address} in time "
                    "(distributed_timeout). The log or console of that process says why."
                )
            if time.monotonic() >= say_at:
                say_at = float("inf")
                say(f"{self._missing()} yet …", sys.stderr)
            listener.settimeout(self.address.left(most=1.0))
            with contextlib.suppress(TimeoutError):
                self._hear(listener.accept()[0])
        for rank, connection in self.connections.items():
            connection.setblocking(False)
            try:
                connection.recv(1)
            except BlockingIOError:  # it waits for the answer
                continue
            except OSError:
                pass
            raise MeetingError(f"Rank {rank} has ended again before the others were there.")

    def _hear(self, connection: socket.socket) -> None:
        try:
            said = _read_line(connection, _LINE_SECONDS)
            rank, size, endpoint = int(said["rank"]), int(said["size"]), str(said["endpoint"])
        except (OSError, ValueError, LookupError, TypeError):
            connection.close()
            return
        if rank in self.endpoints or size != self.size or not 0 < rank < size:
            _write_line(
                connection,
                {
                    "error": f"{self.address} is where a job of {self.size} processes meets, whose "
                    f"rank {rank} is another one: give each job a port of its own."
                },
            )
            return
        self.endpoints[rank], self.connections[rank] = endpoint, connection

    def _missing(self) -> str:
        missing = sorted(set(range(self.size)) - self.endpoints.keys())
        if len(missing) == 1:
            return f"Rank {missing[0]} of {self.size} has not started"
        return f"Ranks {_ranges(missing)} of {self.size} have not started"

    def _tell(self, answer: dict[str, Any]) -> None:
        for connection in self.connections.values():
            _write_line(connection, answer)


def join(address: Address, rank: int, size: int) -> dict[str, Any]:
    """Any other rank's part: say who this is, and wait for the answer."""
    said = {"rank": rank, "size": size, "endpoint": os.environ["PADDLE_CURRENT_ENDPOINT"]}
    problem = "it never answered"
    say_at = time.monotonic() + _SAY_AFTER_SECONDS
    while not address.is_over():
        if time.monotonic() >= say_at:
            say_at = float("inf")
            say(f"Rank 0 of {size} has not answered at {address} yet …", sys.stderr)
        try:
            connection = socket.create_connection(
                (address.host, address.port), timeout=address.left(most=5.0)
            )
            connection.sendall(json.dumps(said).encode() + b"\n")
            answer = _read_line(connection, address.left())
            connection.close()
        except (OSError, ValueError) as error:
            problem = str(error)
            time.sleep(0.05)
            continue
        if "error" in answer:
            raise MeetingError(str(answer["error"]))
        return answer
    raise MeetingError(
        f"Rank 0 of {size} did not answer at {address} in time (distributed_timeout): {problem}. "
        "Is its process running, and is that port open between the machines?"
    )


def _read_line(connection: socket.socket, seconds: float) -> dict[str, Any]:
    """The other side's line. Raises OSError and ValueError where it says none, or nonsense."""
    deadline = time.monotonic() + seconds
    line = b""
    while not line.endswith(b"\n"):
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        data = connection.recv(1 << 16)
        if not data or len(line) > _LONGEST_LINE:
            raise ConnectionResetError("the connection was closed")
        line += data
    said = json.loads(line)
    if not isinstance(said, dict):
        raise ValueError("not a line of this program")
    return said


def _write_line(connection: socket.socket, said: dict[str, Any]) -> None:
    """Say a line and part; the other side may be gone."""
    with contextlib.suppress(OSError), connection:
        connection.settimeout(_LINE_SECONDS)
        connection.sendall(json.dumps(said).encode() + b"\n")


def _ranges(ranks: Collection[int]) -> str:
    """Rising numbers such as 1–3, 7."""
    parts: list[list[int]] = []
    for rank in ranks:
        if parts and parts[-1][1] == rank - 1:
            parts[-1][1] = rank
        else:
            parts.append([rank, rank])
    return ", ".join(f"{low}–{high}" if low < high else str(low) for low, high in parts)
