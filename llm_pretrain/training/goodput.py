"""Goodput: the share of a run's wall time that went into steps, and what took the rest.

The wall time goes from the first start of the run to now, over all its restarts. Each second of it
is in one share:

- `training`: steps, each counted once;
- `start`: from a process's start, with the import of Paddle, to its first step;
- `saving`: while a save held up the training;
- `evaluation`;
- `data`: what rank 0 waited for data in steps;
- `repeated`: steps taken again after a restart or after going back;
- `down`: from the last sign of one start to the beginning of the next;
- `other`.

What an earlier start did is known by its last record in `train_log.jsonl` (kind "goodput"), half a
minute old at most; what a start that was killed did after it counts as `down`. Within a start only
the monotonic clock counts. The wall clock spans the gaps between starts; where it was set back, a
gap is none.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SHARES = ("training", "start", "saving", "evaluation", "data", "repeated", "down", "other")
RECORD_SECONDS = 30.0
"""Between two records, unless something happens that gives reason for one."""
_NAMES = {"data": "waiting for data", "repeated": "repeated steps"}
_SMALLEST_SHOWN = 0.0005


class Goodput:
    """The account of a run's time, from the point of view of this process.

    Args:
        record: the last one of the run's earlier starts, as `record` gives it with the `time` at
            which it was written; what is no such thing counts as none.
        age: seconds since this process started; those before the record don't count.
    """

    def __init__(
        self,
        record: Mapping[str, Any] | None = None,
        *,
        age: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        age = process_age() if age is None else age
        self.highest_step = 0
        """That was ever taken."""
        self._clock = clock
        self._earlier = dict.fromkeys(SHARES, 0.0)
        self._own = dict.fromkeys(SHARES, 0.0)
        self._has_taken_step = False
        self._other = 0.0
        """Seconds in no share up to the last step."""
        self._within = 0.0
        """Seconds counted within the innermost `spending` so far."""
        if record is not None and (seconds := _seconds_of(record)) is not None:
            self._earlier |= seconds
            since = max(0.0, wall_clock() - float(record["time"]))
            # A process may wait for its part, as a spare, while others train.
            age = min(age, since)
            self._earlier["down"] += since - age
            self.highest_step = int(record["highest_step"])
        self._began = clock() - age

    def step(self, step: int, seconds: float, wait_seconds: float) -> None:
        """Count a step that has been taken, `wait_seconds` of it in waiting for data.

        What was counted within the step, as by a save that it waited for, is not counted again.
        """
        if not self._has_taken_step:
            self._own["start"] = max(0.0, self._unnamed() - seconds)
            self._has_taken_step = True
        seconds = max(0.0, min(seconds, self._unnamed() - self._other))
        wait = min(max(wait_seconds, 0.0), seconds)
        self._own["data"] += wait
        is_new = step > self.highest_step
        self._own["training" if is_new else "repeated"] += seconds - wait
        self.highest_step = max(step, self.highest_step)
        self._other = self._unnamed()

    @contextmanager
    def spending(self, share: str) -> Iterator[None]:
        """Count what the block takes, less what blocks within it count."""
        outer, self._within = self._within, 0.0
        began = self._clock()
        try:
            yield
        finally:
            took = max(0.0, self._clock() - began)
            self._own[share] += max(0.0, took - self._within)
            self._within = outer + took

    def seconds(self) -> dict[str, float]:
        """Of each share, over all starts; their sum is the run's wall time."""
        rest = "other" if self._has_taken_step else "start"
        total = {share: self._earlier[share] + self._own[share] for share in SHARES}
        total[rest] += max(0.0, self._unnamed())
        return total

    def share(self) -> float:
        """The goodput: of the wall time, what went into steps, from 0 to 1."""
        seconds = self.seconds()
        wall = sum(seconds.values())
        return seconds["training"] / wall if wall > 0 else 0.0

    def record(self) -> dict[str, Any]:
        """What the next start takes up."""
        return {
            "goodput": self.share(),
            "highest_step": self.highest_step,
            "seconds": self.seconds(),
        }

    def _unnamed(self) -> float:
        return self._clock() - self._began - sum(self._own.values())


def in_words(seconds: Mapping[str, float], width: int = 49) -> str:
    """A run's shares in a line of at most `width` characters, the largest losses first.

    "96.8 %: saving 1.2 %, start 0.9 %": what is below 0.05 % or has no room is left out.
    """
    wall = sum(seconds.values()) or 1.0
    losses = sorted(
        ((took / wall, share) for share, took in seconds.items() if share != "training"),
        reverse=True,
    )
    line, mark = f"{seconds['training'] / wall:.1%}", ": "
    for part, share in losses:
        text = f"{mark}{_NAMES.get(share, share)} {part:.1%}"
        if part < _SMALLEST_SHOWN or len(line) + len(text) > width:
            break
        line, mark = line + text, ", "
    return line


def process_age() -> float:
    """Seconds since this process started; 0 where the system doesn't tell."""
    try:
        # After the command's name in brackets, which may hold anything.
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
        ticks = int(fields.rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return max(0.0, age)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def _seconds_of(record: Mapping[str, Any]) -> dict[str, float] | None:
    """The seconds by share of a record from a file; None where it is damaged."""
    try:
        seconds = {share: float(record["seconds"].get(share, 0.0)) for share in SHARES}
        numbers = [*seconds.values(), float(record["time"]), float(int(record["highest_step"]))]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return seconds if all(math.isfinite(number) and number >= 0 for number in numbers) else None
