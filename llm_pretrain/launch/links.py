"""Launchers of several nodes: the first node's listens, and every other's keeps a connection to it.

What goes over it are lines of JSON, of a bounded length. A connection whose first line is not that
of a node of this job is dropped, and so is one that says what is none of these lines.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Mapping
from typing import Any

from llm_pretrain.launch.job import Job, say
from llm_pretrain.launch.node import Node, Plan
from llm_pretrain.parallel.comm.channel import Channel

PATIENCE_SECONDS = 600.0
"""A machine may be started that much later than the first."""
_SAY_AFTER_SECONDS = 10.0
Address = tuple[str, int]


class LinkError(RuntimeError):
    """The launchers did not come together; the message says which are missing."""


class Hub:
    """The first node's side: hears every other node, and tells them all.

    Args:
        address: where the others come.
    """

    def __init__(
        self, plan: Plan, address: Address, job: Job, selector: selectors.BaseSelector
    ) -> None:
        self.plan, self.job, self.selector = plan, job, selector
        self.channels: dict[int, Channel] = {}
        self._began_at = time.monotonic()
        self._has_said = False
        try:
            self._listener = socket.create_server(("", address[1]), backlog=1024)
        except OSError as error:
            raise LinkError(
                f"The machines of this job can't meet at port {address[1]}: {error.strerror}. "
                "Another job may have it; give this one another in --master."
            ) from error
        self._listener.setblocking(False)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def is_whole(self) -> bool:
        """Whether all nodes are there.

        Raises:
            LinkError: they are not, and it has been long.
        """
        missing = sorted(set(range(1, self.plan.nodes)) - self.channels.keys())
        waited = time.monotonic() - self._began_at
        if missing and waited > PATIENCE_SECONDS:
            raise LinkError(f"The launchers of the machines {missing} did not come.")
        if missing and waited > _SAY_AFTER_SECONDS and not self._has_said:
            self._has_said = True
            say(f"The launchers of the machines {missing} have not come yet …")
        return not missing

    def tell(self, said: Mapping[str, Any]) -> None:
        """Send a word to every other node."""
        for channel in self.channels.values():
            channel.send(json.dumps(said))

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            channel = _watched(self._listener.accept()[0], self.plan.link_seconds)
            self.selector.register(
                channel.connection, selectors.EVENT_READ, lambda: self._hear_stranger(channel)
            )

    def _hear_stranger(self, channel: Channel) -> None:
        self.selector.unregister(channel.connection)
        try:
            said = json.loads(channel.receive()[0])
            number, size = int(said["node"]), said["size"]
            copies = str(said["host"]), int(said["copies"])
        except (OSError, LookupError, ValueError, TypeError):
            channel.connection.close()
            return
        problem = None
        if size != _size_of(self.plan):
            nodes, processes = _size_of(self.plan)
            problem = f"the job that meets there is of {nodes} machines × {processes} processes"
        elif number in self.channels or not 0 < number < self.plan.nodes:
            problem = f"another machine has come as number {number}"
        if problem:
            channel.send(json.dumps({"refused": problem}))
            channel.connection.close()
            return
        self.channels[number] = channel
        self.job.copy_places[number] = copies
        self.selector.register(
            channel.connection, selectors.EVENT_READ, lambda: self._hear(number, channel)
        )

    def _hear(self, number: int, channel: Channel) -> None:
        try:
            for line in channel.receive():
                self.job.hear(json.loads(line), number)
        except BlockingIOError:
            return
        except (OSError, LookupError, ValueError, TypeError, AttributeError):
            self.selector.unregister(channel.connection)
            channel.connection.close()
            del self.channels[number]
            self.job.lose(number)


class Uplink:
    """Any other node's side.

    Raises:
        LinkError: the first node's launcher does not answer.
    """

    def __init__(
        self, plan: Plan, address: Address, node: Node, selector: selectors.BaseSelector
    ) -> None:
        self.node, self.selector = node, selector
        connection = _connected(address)
        self.channel = _watched(connection, plan.link_seconds)
        said = {"node": plan.node_rank, "size": _size_of(plan), "host": plan.host}
        self.channel.send(json.dumps({**said, "copies": node.copies.port}))
        selector.register(connection, selectors.EVENT_READ, self._hear)

    def report(self, said: Mapping[str, Any]) -> None:
        """Tell the first node of a rank of this one."""
        self.channel.send(json.dumps(said))

    def _hear(self) -> None:
        try:
            for line in self.channel.receive():
                said = json.loads(line)
                if "refused" in said:
                    self._end(f"The first machine's launcher refuses this one: {said['refused']}.")
                    return
                self.node.hear(said)
        except BlockingIOError:
            return
        except (OSError, LookupError, ValueError, TypeError) as error:
            self._end(f"The first machine's launcher is gone ({error}): the job ends.")

    def _end(self, why: str) -> None:
        self.selector.unregister(self.channel.connection)
        self.channel.connection.close()
        if self.node.status is None:
            say(f"error: {why}")
            self.node.hear({"end": 1})


def _connected(address: Address) -> socket.socket:
    deadline = time.monotonic() + PATIENCE_SECONDS
    say_at = time.monotonic() + _SAY_AFTER_SECONDS
    while True:
        try:
            return socket.create_connection(address, timeout=5)
        except OSError as error:
            if time.monotonic() > deadline:
                raise LinkError(
                    f"The first machine's launcher does not answer at {address[0]}:{address[1]}: "
                    f"{error}. Is it running, and is that port open between the machines?"
                ) from error
            if time.monotonic() > say_at:
                say_at = float("inf")
                say(f"No answer from {address[0]}:{address[1]} yet …")
            time.sleep(0.1)


def _watched(connection: socket.socket, seconds: float) -> Channel:
    """A channel that breaks where the other machine has given no sign of life for so long."""
    beat = max(1, int(seconds / 4))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, beat),
        (socket.TCP_KEEPINTVL, beat),
        (socket.TCP_KEEPCNT, 3),
        (socket.TCP_USER_TIMEOUT, int(seconds * 1000)),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    return Channel(connection)


def _size_of(plan: Plan) -> list[int]:
    """Of a job, in machines and in processes on each; the ranks compare their configurations."""
    return [plan.nodes, plan.processes]
