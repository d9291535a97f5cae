"""The watch over the ranks: it names the one that is lost, and nothing else ends a job."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from llm_pretrain.parallel.comm.places import PLACE, Place, behind, stand_still

WATCHED_RANK = Path(__file__).with_name("watched_rank.py")
HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
PATIENCE_SECONDS = 60.0
"""Until a rank counts as hung, on a machine that does much else besides."""
TIMEOUT_SECONDS = 10.0
"""Long enough for a word to come in time on such a machine."""
ESTABLISHED = "01"
KILLED = -signal.SIGKILL


class Rank:
    """A running stand-in for a rank."""

    def __init__(
        self,
        rank: int,
        port: int = 0,
        *,
        has_place: bool = False,
        alert: dict[str, str] | None = None,
    ) -> None:
        settings = {
            "rank": rank,
            "hosts": HOSTS,
            "timeout_seconds": TIMEOUT_SECONDS,
            "token": "secret",
            "port": port,
            "alert": alert,
        }
        self.place_file = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the rank)
        if has_place:
            settings["place_file"] = self.place_file.fileno()
            self.be_at("the start", 0)
        self.process = subprocess.Popen(
            [sys.executable, "-I", str(WATCHED_RANK), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=(self.place_file.fileno(),) if has_place else (),
        )
        self.watch_process = int(self.read())
        self.port = int(self.read()) if rank == 0 else port

    def be_at(self, name: str, count: int, *, waits: bool = False) -> None:
        place = PLACE.pack(count, 7, waits, True, name.encode())
        os.pwrite(self.place_file.fileno(), place, 0)

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def missing(self) -> str:
        self.say("missing?")
        return self.read()

    def end(self) -> tuple[int, str]:
        """Status and errors, once it has ended."""
        assert self.process.stderr is not None
        return self.process.wait(PATIENCE_SECONDS), self.process.stderr.read()


@contextmanager
def job(*, has_places: bool = False, alert: dict[str, str] | None = None) -> Iterator[list[Rank]]:
    with ExitStack() as stack:
        ranks = [Rank(0, has_place=has_places, alert=alert)]
        ranks += [Rank(rank, ranks[0].port, has_place=has_places) for rank in (1, 2)]
        for rank in ranks:
            stack.callback(rank.process.communicate)
            stack.callback(rank.process.kill)
        while connections_to(ranks[0].port) < 2:
            assert [rank.process.poll() for rank in ranks] == [None] * 3
            time.sleep(0.05)
        yield ranks


def connections_to(port: int) -> int:
    fields = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return sum(line[2].endswith(f":{port:04X}") and line[3] == ESTABLISHED for line in fields)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)], ids=["first leaves first", "last"])
def test_ranks_that_leave_are_not_lost(order: tuple[int, ...]) -> None:
    with job() as ranks:
        time.sleep(TIMEOUT_SECONDS)
        for number in order:
            ranks[number].say("done")
            assert ranks[number].process.wait(PATIENCE_SECONDS) == 0
            time.sleep(TIMEOUT_SECONDS / 4)
        assert [rank.end() for rank in ranks] == [(0, "")] * 3


@pytest.mark.parametrize("lost", [0, 2])
def test_a_rank_that_is_killed_ends_the_others(lost: int) -> None:
    with job() as ranks:
        ranks[lost].process.kill()
        for number, rank in enumerate(ranks):
            if number != lost:
                status, errors = rank.end()
                assert status == KILLED
                assert f"lost rank {lost} on {HOSTS[lost]}, whose connection closed" in errors


@pytest.mark.parametrize("lost", [0, 1])
def test_a_silent_rank_ends_the_others(lost: int) -> None:
    with job() as ranks:
        os.kill(ranks[lost].watch_process, signal.SIGSTOP)
        try:
            for number, rank in enumerate(ranks):
                if number != lost:
                    status, errors = rank.end()
                    assert status == KILLED
                    assert f"lost rank {lost} on {HOSTS[lost]}, silent for" in errors
        finally:
            os.kill(ranks[lost].watch_process, signal.SIGKILL)


@pytest.mark.parametrize("lost", [0, 2])
@pytest.mark.parametrize("words", [(), ("training",), ("training", "failing")])
def test_a_rank_that_is_killed_in_training_is_told_once(
    tmp_path: Path, lost: int, words: tuple[str, ...]
) -> None:
    """Unless a rank tells itself that it fails."""
    program = tmp_path / "tell.py"
    program.write_text(
        "import json, sys\n"
        "told = json.loads(sys.stdin.readline())\n"
        "print(told['message'], file=open(told['file'], 'a'))\n"
    )
    told = tmp_path / "told"
    with job(alert={"program": str(program), "file": str(told)}) as ranks:
        for word in words:
            ranks[0 if word == "training" else lost].say(word)
        wait_for_answers(ranks, "$")
        ranks[lost].process.kill()
        for rank in ranks:
            rank.end()
        deadline = time.monotonic() + (PATIENCE_SECONDS if words == ("training",) else 1.0)
        while not told.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
    if words == ("training",):
        (line,) = told.read_text().splitlines()
        assert line.startswith(f"lost rank {lost}")
    else:
        assert not told.exists()


def wait_for_answers(ranks: list[Rank], expected: str) -> None:
    """Ask until all say so: what is new comes with the next word."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for rank in ranks:
        while not re.match(expected, answer := rank.missing()):
            assert time.monotonic() < deadline, answer
            time.sleep(0.05)


def test_every_rank_can_ask_who_is_missing() -> None:
    with job() as ranks:
        wait_for_answers(ranks, "$")
        ranks[2].process.kill()
        wait_for_answers(ranks[:2], f"rank 2 on {HOSTS[2]}, whose connection closed")


def test_a_rank_that_the_others_wait_for_is_named() -> None:
    with job(has_places=True) as ranks:
        for count in range(1, 8):  # who goes on, if slowly, is left alone
            for rank in ranks:
                rank.be_at("forward", count)
            time.sleep(TIMEOUT_SECONDS / 4)
        for number in (0, 2):
            ranks[number].be_at("all-reduce of ranks 0, 1, 2", 9, waits=True)
        for rank in ranks:
            status, errors = rank.end()
            assert status == KILLED
            assert f"error: the job stands still: rank 1 on {HOSTS[1]}, which waits for" in errors
            assert "in step 7 at: forward. The others wait at: all-reduce of ranks" in errors


def test_who_is_behind() -> None:
    waiting, busy = Place(1, 5, waits=True), Place(1, 5)
    assert behind({0: waiting, 1: busy}) == [1]
    assert behind({0: Place(1, 5, process="T"), 1: busy}) == [0]
    assert behind({0: waiting, 1: Place(1, 4, waits=True)}) == [1]
    assert behind({0: waiting, 1: waiting}) == []


@pytest.mark.parametrize(
    ("late", "ends"),
    [
        (Place(1, 5, process="T", since=0.0), True),
        (Place(1, 5, is_limited=True, since=0.0), True),
        (Place(1, 5, waits=True, since=0.0), True),
        (Place(1, 5, since=0.0), False),
    ],
    ids=["stopped", "in a step", "all wait", "saving"],
)
def test_a_stand_between_two_steps(late: Place, ends: bool) -> None:
    """What follows a step may take its time, but nobody stays stopped, and all can't wait."""
    places = {0: Place(1, 5, waits=True, since=0.0), 1: late}
    assert stand_still(places, 8.0, all_limited=True) is ends


def test_strangers_are_dropped() -> None:
    lines = [
        b"",
        b"\xff\x00\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"wrong 1\n",
        b"secret 9\n",
        b"secret 1\n",
    ]
    with job() as ranks:
        for line in lines:
            with socket.create_connection((HOSTS[0], ranks[0].port), timeout=5) as stranger:
                stranger.sendall(line)
                stranger.shutdown(socket.SHUT_WR)
                assert stranger.recv(10) == b"", line
        for rank in ranks:
            rank.say("done")
        assert [rank.end() for rank in ranks] == [(0, "")] * 3
