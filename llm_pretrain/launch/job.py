"""The decisions of a job's first launcher: when an epoch begins, and when the job is over.

It hears what all nodes tell of their ranks, and tells them all.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_pretrain.machine import SIGNAL_STATUS
from llm_pretrain.machine.launchers import free_port

_GATHERING_SECONDS = 0.05
"""Ranks that die together are replaced together."""
_LOST_SECONDS = 1.0
"""Where a connection was lost and no rank has been seen to die for so long, all meet again."""


@dataclass(frozen=True)
class Limits:
    """How many ranks may be replaced, within how many seconds."""

    restarts: int
    seconds: float


@dataclass
class Job:
    """What is known of a job of `size` ranks whose first one is on `host`.

    Args:
        nodes: each of them sends a word to one or more nodes.
    """

    size: int
    host: str
    limits: Limits
    nodes: list[Callable[[Mapping[str, Any]], None]]
    epoch: int = 0
    began_at: int | None = None
    """The step at which training began."""
    ended: dict[int, int] = field(default_factory=dict)
    """Exit statuses by rank."""
    signalled: int = 0
    """The signal that told the launcher to end the job."""
    is_ending: bool = False
    gave_up: str = ""
    """The last failure, of a job that has had too many."""
    _restarts: deque[float] = field(default_factory=deque)
    _next_epoch_at: float | None = None
    _failed_at: float | None = None
    _lost_at: float | None = None
    _stuck: str = ""
    """Who stands still in this epoch, in words."""
    _failures: list[str] = field(default_factory=list)
    """Sentences on what has happened since training went on last."""

    @property
    def is_forming(self) -> bool:
        """Whether an epoch is about to begin."""
        return self._next_epoch_at is not None

    def begin(self) -> None:
        """Begin an epoch: every rank meets at a new port."""
        self.epoch += 1
        self._next_epoch_at, self._stuck = None, ""
        master = f"{self.host}:{free_port()}"
        self.tell(
            {
                "begin": self.epoch,
                "master": master,
                "began_at": self.began_at,
                "after": " ".join(self._failures),
            }
        )

    def hear(self, said: Mapping[str, Any]) -> None:
        """Take note of what a node tells of a rank."""
        if self.is_ending:
            return
        if "died" in said:
            self._died(said)
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
        elif "stepped" in said and said["epoch"] == self.epoch and self._failed_at is not None:
            seconds = time.monotonic() - self._failed_at
            self._failed_at = None
            self._failures.clear()
            say(f"Training goes on: step {said['stepped']} came {seconds:.1f} s after the failure.")

    def tell(self, said: Mapping[str, Any]) -> None:
        """Send a word to every node."""
        for node in self.nodes:
            node(said)

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
            stands_still = f"The job stands still: {self._stuck}"
            self._failed(stands_still if self._stuck else "A connection between ranks was lost")
        if self._next_epoch_at is not None and time.monotonic() >= self._next_epoch_at:
            self.begin()

    def _died(self, said: Mapping[str, Any]) -> None:
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
            f"Rank {rank} {how}",
            status=int(said["status"]),
            failure=str(said["failure"]),
            counts=bool(said["counts"]),
        )

    def _failed(
        self,
        what: str,
        *,
        status: int = 1,
        failure: str = "",
        counts: bool = True,
    ) -> None:
        """Begin a new epoch, or end the job where there have been too many."""
        now = time.monotonic()
        while self._restarts and now - self._restarts[0] > self.limits.seconds:
            self._restarts.popleft()
        if counts and len(self._restarts) >= self.limits.restarts:
            say(
                f"error: {what}, and {self.limits.restarts} restarts within "
                f"{self.limits.seconds:g} s are all that max_restarts and restart_window allow."
            )
            if failure:
                say(failure.rstrip())
            self.gave_up = "\n".join(filter(None, (what, failure)))
            self.end(status)
            return
        if counts:
            self._restarts.append(now)
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
    print(f"launch: {text}", file=sys.stderr, flush=True)


def how_it_died(status: int) -> str:
    """The end of a process, by its exit status as `subprocess` gives it, for after its name."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
