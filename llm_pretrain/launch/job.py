"""The decisions of a job's first launcher: when an epoch begins, and of which nodes; when the job
is over.

It hears what all nodes tell of their ranks, and tells them all.
"""

from __future__ import annotations

import secrets
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_pretrain.machine import SIGNAL_STATUS, terminal
from llm_pretrain.machine.sockets import held_port, port_of

_GATHERING_SECONDS = 0.05
"""Ranks that die together are replaced together."""
_LOST_SECONDS = 1.0
"""Where a connection was lost and no rank has been seen to die for so long, all meet again."""
_ONE_FAILURE_SECONDS = 1.0
"""Ranks that die within it are of one restart: a machine's, or all, where one stands still."""

_GROWN = "A machine has come back."


@dataclass(frozen=True)
class Limits:
    """How many restarts there may be, within how many seconds."""

    restarts: int
    seconds: float


@dataclass
class Job:
    """What is known of a job of several nodes, the first of which is on `host`.

    Args:
        processes: on each node.
        sizes: the numbers of ranks that it may have, the largest first: that of all nodes, and
            where it may lose some, smaller ones.
        tellers: each of them sends a word to one or more nodes.
    """

    processes: int
    sizes: Sequence[int]
    host: str
    limits: Limits
    tellers: list[Callable[[Mapping[str, Any]], None]]
    copy_places: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Where each node takes copies of another one's memory (`launch.copies`)."""
    epoch: int = 0
    spans: dict[int, range] = field(default_factory=dict)
    """The ranks of this epoch by node."""
    began_at: int | None = None
    """The step at which training began."""
    ended: dict[int, int] = field(default_factory=dict)
    """Exit statuses by rank."""
    signalled: int = 0
    """The signal that told the launcher to end the job."""
    is_ending: bool = False
    gave_up: str = ""
    """The last failure, of a job that has had too many."""
    _nodes: set[int] = field(init=False)
    """Those that ranks may be given to."""
    _restarts: deque[tuple[float, int | None]] = field(default_factory=deque)
    """When, and because of which node."""
    _dead: set[int] = field(default_factory=set)
    """The ranks that died of the last of them."""
    _next_epoch_at: float | None = None
    _failed_at: float | None = None
    _lost_at: float | None = None
    _is_growing: bool = False
    """Whether an epoch with more ranks is to begin at the next checkpoint."""
    _stuck: str = ""
    """Who stands still in this epoch, in words."""
    _port: socket.socket | None = None
    """Keeps the port at which the ranks of this epoch meet."""
    _failures: list[str] = field(default_factory=list)
    """Sentences on what has happened since training went on last."""

    def __post_init__(self) -> None:
        self._nodes = set(range(self.sizes[0] // self.processes))

    @property
    def size(self) -> int:
        """The ranks of this epoch."""
        return sum(map(len, self.spans.values()))

    @property
    def is_forming(self) -> bool:
        """Whether an epoch is about to begin."""
        return self._next_epoch_at is not None

    def begin(self) -> None:
        """Begin an epoch: every rank meets at a new port."""
        size, before = self._size_of(self._nodes), self.size
        assert size is not None
        self.epoch += 1
        self._next_epoch_at, self._stuck, self._is_growing = None, "", False
        self.spans = self._shared(size)
        if before and size != before:
            say(f"The job goes on with {size} of {self.sizes[0]} processes, at the same batch.")
        if self._port is not None:
            self._port.close()
        self._port = held_port()
        master = f"{self.host}:{port_of(self._port)}"
        self.tell(
            {
                "begin": self.epoch,
                "master": master,
                "began_at": self.began_at,
                "after": " ".join(self._failures),
                "spans": {str(node): [span.start, span.stop] for node, span in self.spans.items()},
                "size": size,
                "whole": self.sizes[0],
                "token": secrets.token_hex(16),
                "copies": {
                    node: place for node, place in self.copy_places.items() if node in self.spans
                },
            }
        )

    def _size_of(self, nodes: Collection[int]) -> int | None:
        """The ranks that these nodes can have; None where they are too few."""
        available = len(nodes) * self.processes
        return next((size for size in self.sizes if size <= available), None)

    def _shared(self, size: int) -> dict[int, range]:
        """Ranks by node: the first ones are full, so that neighbours are on one node."""
        firsts = zip(sorted(self._nodes), range(0, size, self.processes), strict=False)
        return {node: range(first, min(first + self.processes, size)) for node, first in firsts}

    def hear(self, said: Mapping[str, Any], node: int = 0) -> None:
        """Take note of what a node tells of itself or of a rank."""
        if self.is_ending:
            return
        if node not in self._nodes:
            if "ready" in said:
                self._may_join(node)
            return
        if "died" in said:
            self._died(said, node)
        elif "ended" in said:
            self._rank_ended(int(said["rank"]), int(said["ended"]))
        elif "lost" in said:
            is_news = said["lost"] == self.epoch and self._next_epoch_at is None
            if is_news and self._lost_at is None and not self.signalled:
                self._lost_at = time.monotonic()
        elif "stuck" in said:
            if said["epoch"] == self.epoch and not self._stuck:
                self._stuck = str(said["stuck"])
        elif "began" in said:
            if self.began_at is None:
                self.began_at = int(said["began"])
        elif "saved" in said:
            if said["epoch"] == self.epoch and not self.is_forming:
                if len(self.spans) > 1:
                    self.tell({"saved": said["saved"]})
                if self._is_growing:
                    self._grow()
        elif "stepped" in said and said["epoch"] == self.epoch and self._failed_at is not None:
            seconds = time.monotonic() - self._failed_at
            cause = "change" if self._failures == [_GROWN] else "failure"
            self._failed_at = None
            self._failures.clear()
            say(f"Training goes on: step {said['stepped']} came {seconds:.1f} s after the {cause}.")

    def tell(self, said: Mapping[str, Any]) -> None:
        """Send a word to every node; where it names a `node`, only that one heeds it."""
        for tell in self.tellers:
            tell(said)

    def lose(self, node: int) -> None:
        """Take note of the end of another node's launcher, which takes its ranks with it."""
        if self.is_ending or node not in self._nodes:
            return
        what, ranks = f"The launcher of machine {node} is gone", self.spans.get(node, range(0))
        if any(status == 0 for status in self.ended.values()):
            for rank in ranks:
                self._rank_ended(rank, 0)
            return
        if self.epoch == 0 or self.signalled or self._size_of(self._nodes - {node}) is None:
            say(f"error: {what}: the job ends{self._why_it_may_not_shrink()}.")
            self.end(1)
            return
        self._nodes.discard(node)
        if ranks:
            self._failed(what, node=node)
        else:  # it was yet to take part
            self._is_growing = (self._size_of(self._nodes) or 0) > self.size
            say(f"{what} again.")

    def _why_it_may_not_shrink(self) -> str:
        smaller = ", ".join(map(str, self.sizes[1:]))
        if self.epoch == 0 or self.signalled or not smaller:
            return ""
        return f", for it can go on with {smaller} processes (min_processes) and no fewer"

    def _may_join(self, node: int) -> None:
        """A node that the job goes on without has all of its processes ready."""
        if self.signalled:
            return
        self._nodes.add(node)
        size = self._size_of(self._nodes) or 0
        self._is_growing = size > self.size
        follows = (
            f"from the next checkpoint on the job has {size} of {self.sizes[0]} processes"
            if self._is_growing
            else f"it waits, for {size} processes are what the job can go on with"
        )
        say(f"The launcher of machine {node} is back: {follows}.")

    def _grow(self) -> None:
        if not self.ended and not self.signalled:
            self._failures.append(_GROWN)
            self._next_epoch_at = self._failed_at = time.monotonic()

    def signal(self, number: int) -> None:
        """The launcher was told to end the job; so have the ranks been."""
        self.signalled = number
        if self._failed_at is not None and not self.is_ending:
            say("The ranks were forming anew: what was saved last stands.")
            self.end(SIGNAL_STATUS + number)

    def tick(self) -> None:
        """Do what is due."""
        if self._lost_at is not None and time.monotonic() - self._lost_at > _LOST_SECONDS:
            self._lost_at = None
            self._failed(
                self._standstill() if self._stuck else "A connection between ranks was lost"
            )
        if self._next_epoch_at is not None and time.monotonic() >= self._next_epoch_at:
            self.begin()

    def _standstill(self) -> str:
        return f"The job stands still: {self._stuck}"

    def _died(self, said: Mapping[str, Any], node: int) -> None:
        rank, how = int(said["died"]), str(said["how"])
        # The last ranks to leave a job that is done have nothing more to do.
        if any(status == 0 for status in self.ended.values()):
            self._rank_ended(rank, 0)
            return
        if self.signalled:
            status = int(said["status"])
            if status == SIGNAL_STATUS + self.signalled:
                self._rank_ended(rank, status)
            else:
                say(f"error: Rank {rank} {how} before the job had ended: it is not replaced.")
                self.end(status)
            return
        self._failed(
            self._standstill() if self._stuck and not self.is_forming else f"Rank {rank} {how}",
            node=None if self._stuck else node,
            rank=rank,
            status=int(said["status"]),
            failure=str(said["failure"]),
            counts=bool(said["counts"]),
        )

    def _failed(
        self,
        what: str,
        *,
        node: int | None = None,
        rank: int | None = None,
        status: int = 1,
        failure: str = "",
        counts: bool = True,
    ) -> None:
        """Begin a new epoch, or end the job where there have been too many."""
        now = time.monotonic()
        while self._restarts and now - self._restarts[0][0] > self.limits.seconds:
            self._restarts.popleft()
        counts = counts and not self._died_with_others(rank, now)
        is_too_much = counts and len(self._restarts) >= self.limits.restarts
        if is_too_much:
            say(
                f"error: {what}, and {self.limits.restarts} restarts within "
                f"{self.limits.seconds:g} s are all that max_restarts and restart_window allow."
            )
        if is_too_much and not self._has_let_go(node, status):
            if failure:
                say(failure.rstrip())
            self.gave_up = "\n".join(filter(None, (what, failure)))
            self.end(status)
            return
        if counts:
            self._restarts.append((now, node))
            self._dead = set()
        if rank is not None:
            self._dead.add(rank)
        self._failures.append(f"{what}.")
        last_line = f" ({failure.rstrip().splitlines()[-1]})" if failure.strip() else ""
        say(
            f"{what}{last_line}: the ranks form anew "
            f"(restart {len(self._restarts)} of {self.limits.restarts} within "
            f"{self.limits.seconds:g} s)."
        )
        if self._failed_at is None:
            self._failed_at = now
        self._next_epoch_at, self._lost_at = now + _GATHERING_SECONDS, None

    def _died_with_others(self, rank: int | None, now: float) -> bool:
        """Whether this death is of the restart that was counted last."""
        is_late = not self._restarts or now - self._restarts[-1][0] > _ONE_FAILURE_SECONDS
        return rank is not None and rank not in self._dead and not is_late

    def _has_let_go(self, failed: int | None, status: int) -> bool:
        """Whether the job can go on without the node that most of the restarts were for."""
        most = Counter(node for _, node in [*self._restarts, (0.0, failed)]).most_common(1)[0][0]
        if not most or self._size_of(self._nodes - {most}) is None:  # None, or the first node
            return False
        say(f"Most of them were for machine {most}: the job goes on without it.")
        self._nodes.discard(most)
        self._restarts = deque(one for one in self._restarts if one[1] != most)
        self.tell({"end": status, "node": most})
        return True

    def _rank_ended(self, rank: int, status: int) -> None:
        self.ended[rank] = status
        is_error = status != 0 and not self.signalled and status < SIGNAL_STATUS
        if is_error or len(self.ended) == self.size:
            self.end(max(self.ended.values()))

    def end(self, status: int) -> None:
        """End all ranks that are left."""
        self.is_ending = True
        self._next_epoch_at = self._lost_at = None
        self.tell({"end": status})


def say(text: str) -> None:
    """Tell the user, on the launcher's console."""
    terminal.say(f"launch: {text}", sys.stderr)
