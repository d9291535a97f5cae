"""Copies of a node's memories on the next node: whole ones arrive, and nobody else's do."""

from __future__ import annotations

import json
import os
import selectors
import socket
from collections.abc import Iterator

import pytest

from llm_pretrain.launch.copies import Copies

Nodes = dict[int, tuple[str, int]]
TOKEN = "0123456789abcdef"


class Machines:
    """The launchers of three nodes in one process, of two ranks each."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.copies = [Copies(2, self.selector) for _ in range(3)]
        self.nodes = {number: ("127.0.0.1", node.port) for number, node in enumerate(self.copies)}

    def begin(self, token: str = TOKEN, nodes: Nodes | None = None) -> None:
        for number, node in enumerate(self.copies):
            node.begin(token, self.nodes if nodes is None else nodes, number)

    def run(self) -> None:
        """Until nothing happens any more."""
        while events := self.selector.select(0.2):
            for key, _ in events:
                key.data()

    def say(self, line: bytes, values: bytes = b"") -> None:
        """Come to the first node as any program could."""
        with socket.create_connection(self.nodes[0]) as connection:
            connection.sendall(line + values)
            self.run()

    def kept(self, node: int) -> list[bytes]:
        return [content(memory) for memory in self.copies[node].kept]


def content(memory: int) -> bytes:
    return os.pread(memory, 1 << 30, 0)


def announced(**changes: object) -> bytes:
    said = {"token": TOKEN, "number": 0, "size": 5, **changes}
    return json.dumps(said).encode().ljust(256)


@pytest.fixture
def machines() -> Iterator[Machines]:
    found = Machines()
    yield found
    for node in found.copies:
        node.close()
    found.selector.close()


def test_each_node_keeps_what_the_one_before_it_has_saved(machines: Machines) -> None:
    saved = [[os.urandom(10_000_000 + rank) for rank in range(2)] for _ in range(3)]
    machines.begin()
    for node, contents in zip(machines.copies, saved, strict=True):
        for memory, values in zip(node.own, contents, strict=True):
            os.pwrite(memory, values, 0)
        node.send()
    machines.run()
    assert [machines.kept(node) for node in range(3)] == [saved[2], saved[0], saved[1]]


def test_a_copy_that_shrinks_has_nothing_behind_it(machines: Machines) -> None:
    for size in (1000, 10):
        machines.begin()
        os.ftruncate(machines.copies[0].own[0], size)
        machines.copies[0].send()
        machines.run()
        assert machines.kept(1) == [bytes(size), b""]


def test_without_its_neighbour_a_node_sends_to_the_one_after_it(machines: Machines) -> None:
    machines.begin(nodes={number: machines.nodes[number] for number in (0, 2)})
    os.pwrite(machines.copies[0].own[1], b"state", 0)
    machines.copies[0].send()
    machines.run()
    assert machines.kept(1) == [b"", b""]
    assert machines.kept(2) == [b"", b"state"]


def test_nothing_comes_after_an_epoch_until_something_is_saved_in_the_next(
    machines: Machines,
) -> None:
    machines.begin()
    os.pwrite(machines.copies[0].own[0], b"x" * 50_000_000, 0)
    machines.copies[0].send()
    for _ in range(6):
        for key, _ in machines.selector.select(0.2):
            key.data()
    machines.begin("another")
    before = machines.kept(1)
    assert 0 < before[0].count(b"x") < 50_000_000
    machines.run()
    assert machines.kept(1) == before


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n\r\n".ljust(256),
        b"[1]".ljust(256),
        b"{}".ljust(256),
        b"short",
        announced(token="wrong"),
        announced(token=""),
        announced(token="é"),
        announced(number=2),
        announced(number=-1),
        announced(number=[]),
        announced(size=0),
        announced(size=1 << 60),
    ],
)
def test_what_no_node_of_the_job_says_is_not_heard(machines: Machines, line: bytes) -> None:
    machines.begin()
    machines.say(line, b"state")
    assert machines.kept(0) == [b"", b""]
    machines.say(announced(), b"state")
    assert machines.kept(0) == [b"state", b""]


def test_before_the_first_epoch_nobody_is_heard(machines: Machines) -> None:
    machines.say(announced(token=""), b"state")
    assert machines.kept(0) == [b"", b""]


def test_strangers_that_say_nothing_do_not_pile_up(machines: Machines) -> None:
    machines.begin()
    strangers = []
    for _ in range(100):
        strangers.append(socket.create_connection(machines.nodes[0]))
        for key, _ in machines.selector.select(0.2):
            key.data()
    strangers[0].settimeout(5)
    assert strangers[0].recv(1) == b""
    machines.say(announced(), b"state")
    assert machines.kept(0) == [b"state", b""]
    for stranger in strangers:
        stranger.close()


def test_no_more_is_taken_than_was_announced(machines: Machines) -> None:
    machines.begin()
    machines.say(announced(), b"state and more")
    assert machines.kept(0) == [b"state", b""]
