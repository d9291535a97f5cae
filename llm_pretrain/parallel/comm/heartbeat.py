"""The watch over the other ranks of a job: a small program that runs beside every rank.

Rank 0's listens, and every other rank's keeps one connection to it; both say a word on it every few
seconds. A rank that has been silent for nearly that long is lost, and so is one whose
connection closed without a word of parting; its neighbours would wait for it for ever, or fail with
errors that don't name it. Each watch then says which rank is lost and kills its own.

A rank may also live and yet stand still: stopped, in an endless loop, in a read that never ends.
Each writes where it is into memory that its watch reads, and each watch tells rank 0's. When none
has gone on for nearly the time-out, the one that the others wait for is named, the stacks of all
are written, and the job ends. The watch of rank 0 outlives a rank that is killed in training. Where
no rank has said that it fails, it has another program tell of the failure (`alert`).

It is a program and not a thread because a rank that waits for a lost peer may be held in C++ code
with Python's lock. It imports no Paddle, so that it starts at once. The rank speaks
with it over its standard input, and its end is the end of the watch.

Nothing that comes from the network is more than a line of text; a connection that does not begin
with the job's token is dropped.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import mmap
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from llm_pretrain.machine.language import translated
from llm_pretrain.parallel.comm.channel import Channel, Peer
from llm_pretrain.parallel.comm.places import (
    PLACE,
    Place,
    described,
    moved,
    stand_still,
    told_by,
)
from llm_pretrain.parallel.comm.stacks import leave_stacks

LOST_AFTER = 0.8
"""Of the time-out, so that the job has ended when it is over."""
LONGEST_BEAT_SECONDS = 5.0
MISSING_AFTER_BEATS = 3
GRACE_SECONDS = 5.0
"""A rank that fails has this long to be seen failing, by its launcher and its neighbours."""
STUCK_AFTER_SECONDS = 10.0
"""A rank whose communication has failed asks who stands still; for so long one may compute."""


@dataclass(frozen=True)
class Settings:
    """What a rank tells its watch at the start."""

    rank: int
    hosts: list[str]
    """By rank."""
    timeout_seconds: float
    token: str
    """A secret of the job, without spaces."""
    port: int = 0
    """Where rank 0's watch listens, on its host."""
    place_file: int | None = None
    """Descriptor of the file that begins with the rank's `PLACE`."""
    stacks_file: int | None = None
    """Descriptor of the rank's `stacks_file`."""
    stacks_directory: str = ""
    """Where the stacks of a job that stands still are left."""
    launcher: int | None = None
    """Descriptor of the rank's connection to `llm-pretrain launch`."""
    epoch: int = 0
    """The rank's, see `epochs`."""
    alert: dict[str, str] | None = None
    """What tells of a rank that was killed: `program`, a file of Python, which gets all this and
    the `message` as a line of JSON."""


class Watch:
    """One rank's view of the ranks that it hears: all of them from rank 0, rank 0 from the rest."""

    def __init__(self, settings: Settings, rank_process: int) -> None:
        self.settings = settings
        self.rank_process = rank_process
        self.own = f"rank {settings.rank} on {settings.hosts[settings.rank]}"
        self.beat_seconds = min(settings.timeout_seconds / 10, LONGEST_BEAT_SECONDS)
        ranks = range(1, len(settings.hosts)) if settings.rank == 0 else [0]
        self.peers = {rank: Peer(rank, settings.hosts[rank]) for rank in ranks}
        self.heard_of_missing = ""
        self.heard_of_stuck = ""
        self.place = Place()
        self.has_left_stacks = False
        self.places: mmap.mmap | None = None
        if settings.place_file is not None:
            self.places = mmap.mmap(settings.place_file, PLACE.size, access=mmap.ACCESS_READ)
        self.is_training = False
        self.is_explained = False
        """Whether a rank has said that it fails, and tells of that itself."""
        self.selector = selectors.DefaultSelector()
        self._on_input(sys.stdin.buffer.fileno(), self._hear_rank)

    def _on_input(self, source: int | socket.socket, action: Callable[[], None]) -> None:
        self.selector.register(source, selectors.EVENT_READ, action)

    def listen(self) -> int:
        """Accept connections, at the returned port."""
        # One per rank: the usual 1024 are too few for a large job.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        listener = socket.create_server((self.settings.hosts[0], 0), backlog=1024)
        listener.setblocking(False)
        self._on_input(listener, lambda: self._accept(listener))
        port: int = listener.getsockname()[1]
        return port

    def connect(self) -> None:
        """Join rank 0's watch; where it can't be reached, rank 0 falls silent."""
        first = self.peers[0]
        with contextlib.suppress(OSError):
            connection = socket.create_connection(
                (first.host, self.settings.port), timeout=self.settings.timeout_seconds / 2
            )
            first.channel = Channel(connection)
            first.channel.send(f"{self.settings.token} {self.settings.rank}")
            self._on_input(connection, lambda: self._hear_peer(first))

    def run(self) -> NoReturn:
        """Watch until the rank ends, or has to be ended."""
        next_beat = 0.0
        while True:
            wait = max(0.0, next_beat - time.monotonic())
            for key, _ in self.selector.select(wait):
                key.data()
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + self.beat_seconds
                self._beat()

    def missing(self) -> str:
        """The ranks that may be lost, in words; "" where all is well."""
        now = time.monotonic()
        limit = MISSING_AFTER_BEATS * self.beat_seconds
        missing = [
            peer.describe(now)
            for peer in self.peers.values()
            if peer.closed is not None or now - peer.heard > limit
        ]
        return "; ".join(missing) or self.heard_of_missing

    def _beat(self) -> None:
        now = time.monotonic()
        limit = LOST_AFTER * self.settings.timeout_seconds
        for peer in self.peers.values():
            if peer.closed is None:
                is_lost = now - peer.heard > limit
            else:
                is_lost = now - peer.closed > GRACE_SECONDS
            if is_lost:
                self._end_rank(self.missing())
        self._look_at_rank()
        if self.settings.rank == 0 and stand_still(self._all_places(), limit, all_limited=True):
            self._end_stuck(self.stuck())
        self._say_state()

    def _say_state(self) -> None:
        if self.settings.rank == 0:
            self._say(f"missing {self.missing()}")
            self._say(f"behind {self.stuck()}")
        else:
            place = self.place
            told = [place.count, place.step, place.waits, place.is_limited, place.name]
            self._say(f"here {json.dumps([*told, place.process])}")

    def _look_at_rank(self) -> None:
        """Note where this watch's own rank is."""
        if self.places is None:
            return
        self.place = moved(self.place, told_by(self.rank_process, self.places[:]))

    def _all_places(self) -> dict[int, Place]:
        return {rank: peer.place for rank, peer in self.peers.items()} | {0: self.place}

    def stuck(self) -> str:
        """Who stands still while the others wait, in words; "" where the job goes on."""
        if self.settings.rank != 0:
            return self.heard_of_stuck
        seconds = min(STUCK_AFTER_SECONDS, LOST_AFTER * self.settings.timeout_seconds)
        if not stand_still(self._all_places(), seconds):
            return ""
        return described(self._all_places(), self.settings.hosts)

    def _say(self, line: str) -> None:
        for peer in self.peers.values():
            if peer.channel is not None:
                peer.channel.send(line)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            channel = Channel(listener.accept()[0])
            self._on_input(channel.connection, lambda: self._hear_stranger(channel))

    def _hear_stranger(self, channel: Channel) -> None:
        """Who has connected? Whoever doesn't say so in the first line is dropped."""
        self.selector.unregister(channel.connection)
        try:
            token, _, rank = channel.receive()[0].partition(" ")
            peer = self.peers[int(rank)]
        except (OSError, LookupError, ValueError):
            channel.connection.close()
            return
        is_ours = hmac.compare_digest(token.encode(), self.settings.token.encode())
        if not is_ours or peer.channel is not None:
            channel.connection.close()
            return
        peer.channel = channel
        peer.heard = time.monotonic()
        self._on_input(channel.connection, lambda: self._hear_peer(peer))

    def _hear_peer(self, peer: Peer) -> None:
        assert peer.channel is not None
        try:
            lines = peer.channel.receive()
        except OSError:
            self._part_from(peer)
            peer.closed = time.monotonic()
            self._say_state()
            return
        peer.heard = time.monotonic()
        for line in lines:
            word, _, text = line.partition(" ")
            if word == "here" and text:
                with contextlib.suppress(ValueError, TypeError):
                    peer.place = moved(peer.place, json.loads(text))
            elif word == "behind":
                self.heard_of_stuck = text
            elif word == "stacks":
                self._leave_stacks()
            elif word == "stuck":
                self._end_stuck(text)
            elif word == "missing":
                self.heard_of_missing = text
            elif word == "failing":
                self.is_explained = True
            elif word == "lost":
                self._end_rank(text)
            elif word == "done":
                self._part_from(peer)
                del self.peers[peer.rank]
                return

    def _part_from(self, peer: Peer) -> None:
        assert peer.channel is not None
        self.selector.unregister(peer.channel.connection)
        peer.channel.connection.close()
        peer.channel = None

    def _hear_rank(self) -> None:
        """Answer this watch's own rank."""
        words = os.read(0, 4096).decode().split()
        if not words:
            own = f"rank {self.settings.rank}, whose process has ended without a word"
            self._tell(f"lost {self.missing() or own}")
            sys.exit(1)  # the rank has ended, and so do our connections
        for word in words:
            if word == "missing?":
                print(self.missing(), flush=True)
            elif word == "stuck?":
                self._look_at_rank()
                print(self.stuck(), flush=True)
                if self.stuck():
                    self._say("stacks")
                    self._leave_stacks()
            elif word == "training":
                self.is_training = True
            elif word == "failing":
                self.is_explained = True
                self._say(word)
            elif word == "done":
                self._leave()
            elif word == "over":
                self._say("done")
                sys.exit(0)

    def _leave(self) -> NoReturn:
        """Part from the peers, and see them take note of it."""
        self.selector.unregister(0)
        self._say("done")
        deadline = time.monotonic() + GRACE_SECONDS
        while any(peer.channel for peer in self.peers.values()) and time.monotonic() < deadline:
            for key, _ in self.selector.select(deadline - time.monotonic()):
                key.data()
        sys.exit(0)

    def _leave_stacks(self) -> None:
        """Have this watch's rank write its stacks, and keep them."""
        settings = self.settings
        if self.has_left_stacks or settings.stacks_file is None:
            return
        self.has_left_stacks = True
        if settings.rank == 0:
            self._say("stacks")
        if os.getppid() != self.rank_process:
            return
        path = Path(settings.stacks_directory) / f"rank-{settings.rank}.txt"
        leave_stacks(self.rank_process, self.own, settings.stacks_file, path)

    def _end_stuck(self, late: str) -> NoReturn:
        """End a job that stands still."""
        if self.settings.rank == 0:
            self._say(f"stuck {late}")
        if self.settings.launcher is not None:
            # In its rank's place, which may stand still.
            said = json.dumps({"stuck": late, "epoch": self.settings.epoch})
            with contextlib.suppress(OSError):  # it has ended, and so will the rank
                os.write(self.settings.launcher, f"{said}\n".encode())
        self._leave_stacks()
        self._print_and_kill(
            f"error: the job stands still: {late}. distributed_timeout is "
            f"{self.settings.timeout_seconds:g} s; what each rank was at is in "
            f"{self.settings.stacks_directory}."
        )

    def _end_rank(self, lost: str) -> NoReturn:
        if self.settings.rank == 0:
            self._say(f"lost {lost}")
        self._print_and_kill(
            f"error: lost {lost} (seen from {self.own}; "
            f"distributed_timeout is {self.settings.timeout_seconds:g} s). Is the link sound, and "
            "that machine up? If so, that machine's console says why its rank ended."
        )

    def _print_and_kill(self, message: str) -> NoReturn:
        print(translated(message), file=sys.stderr, flush=True)
        self._tell(message.removeprefix("error: "))
        if os.getppid() == self.rank_process:
            os.kill(self.rank_process, signal.SIGKILL)
        sys.exit(1)

    def _tell(self, text: str) -> None:
        """Have the failure told by a program that nobody waits for."""
        alert = self.settings.alert
        if alert is None or not self.is_training or self.is_explained:
            return
        with contextlib.suppress(OSError):
            program = subprocess.Popen(
                [sys.executable, "-I", alert["program"]],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
            assert program.stdin is not None
            with program.stdin:
                program.stdin.write(json.dumps({**alert, "message": text}) + "\n")


def command() -> list[str]:
    """What starts a watch, whatever the directory and the environment."""
    start = f"import sys; sys.path.insert(0, sys.argv[1]); from {__name__} import main; main()"
    return [sys.executable, "-I", "-c", start, str(Path(__file__).parents[3])]


def main() -> NoReturn:
    """Read the settings as a line of JSON, answer with the port, and watch."""
    rank_process = os.getppid()
    # The launcher's signals go to the whole process group; the watch ends with its rank.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    settings = Settings(**json.loads(_first_line()))
    watch = Watch(settings, rank_process)
    if settings.rank == 0:
        print(watch.listen(), flush=True)
    else:
        watch.connect()
    watch.run()


def _first_line() -> bytes:
    """A line of standard input and not a byte more: what follows is awaited by the selector."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit(1)
        line += byte
    return line
