"""Ports that are held until somebody listens at them, and the connections of this process."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress


def held_port() -> socket.socket:
    """A socket at a port of this machine that nobody else gets for as long as it is open.

    It doesn't listen, and lets whoever knows the port listen there, which a server does that sets
    SO_REUSEADDR, as Paddle's do. A port that was only looked for could be another's by the time
    that a server is there, and Paddle's aborts the process then.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("", 0))
    return held


def port_of(bound: socket.socket) -> int:
    port: int = bound.getsockname()[1]
    return port


def own_connections() -> Iterator[socket.socket]:
    """This process's TCP connections, those of C++ as well, each for as long as the caller looks
    at it."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as found:
                is_tcp = found.family in (socket.AF_INET, socket.AF_INET6)
                if is_tcp and not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    yield found


def send_at_once() -> None:
    """Have every connection of this process send what it has.

    Paddle's stores write a request, and an answer, in several parts, of which the system holds back
    the later ones until the first is acknowledged, for 40 ms: a group of eight took 2.5 s to form.
    Once a store is open all its connections are there, on either side.
    """
    for connection in own_connections():
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


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
