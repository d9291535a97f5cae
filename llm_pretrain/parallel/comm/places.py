"""Where a rank is in its step, as its watch reads it, and which of several is late."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

PLACE = struct.Struct("<QQ??80s")
"""Where a rank is: how many places it has been at, the step, whether it waits for other ranks,
whether it may not stay there for longer than the time-out, and the place's name."""


@dataclass(frozen=True)
class Place:
    """Where a rank is, as its watch tells."""

    count: int = 0
    step: int = 0
    waits: bool = False
    is_limited: bool = False
    name: str = ""
    process: str = ""
    """The state of its process, a letter of /proc: T is stopped."""
    since: float = field(default_factory=time.monotonic)
    """When it was first known to be there."""

    def describe(self, now: float) -> str:
        if self.process == "T":
            doing = "whose process is stopped (SIGSTOP?)"
        elif self.process == "D":
            doing = "whose process waits for a disk or a device"
        else:
            doing = "which waits for others" if self.waits else "which waits for no other"
        name = self.name or "the start"
        return f"{doing}, for {now - self.since:.0f} s in step {self.step} at: {name}"


def stand_still(places: Mapping[int, Place], seconds: float, *, all_limited: bool = False) -> bool:
    """Whether no rank has gone on for so long, as far as where each is can be told.

    Args:
        all_limited: count only a stand at places where none may stay for long. A process that is
            stopped may not stay anywhere, and of one that waits it depends on those it waits for.
    """
    now = time.monotonic()
    return all(
        place.count > 0
        and now - place.since > seconds
        and (place.is_limited or place.waits or place.process == "T" or not all_limited)
        for place in places.values()
    )


def behind(places: Mapping[int, Place]) -> list[int]:
    """Of ranks that all stand still those that the others wait for, by their places."""
    stopped = [rank for rank, place in places.items() if place.process == "T"]
    if stopped:
        return stopped
    busy = [rank for rank, place in places.items() if not place.waits]
    if busy:
        return busy
    first = min((place.step for place in places.values()), default=0)
    late = [rank for rank, place in places.items() if place.step == first]
    return late if len(late) < len(places) else []


def described(places: Mapping[int, Place], hosts: Sequence[str]) -> str:
    """Who stands still and what the others wait at, in words; all where none is behind."""
    now, late = time.monotonic(), behind(places)
    named = [
        f"rank {rank} on {hosts[rank]}, {places[rank].describe(now)}" for rank in late or places
    ]
    waiting = sorted({place.name for rank, place in places.items() if rank not in late})
    waits = f". The others wait at: {', '.join(waiting)}" if late and waiting else ""
    return f"{'; '.join(named)}{waits}"


def moved(before: Place, told: list[Any]) -> Place:
    """The place of a rank that has been at another one `before`.

    Raises:
        ValueError, TypeError: what was told is no place.
    """
    count, step, waits, is_limited, name, process = told
    place = Place(int(count), int(step), bool(waits), bool(is_limited), str(name), str(process))
    return place if place.count != before.count else replace(place, since=before.since)


def told_by(process: int, memory: bytes) -> list[Any]:
    """What a process has left in the memory that begins with its `PLACE`, for `moved`."""
    count, step, waits, is_limited, name = PLACE.unpack(memory[: PLACE.size])
    name = name.rstrip(b"\0").decode(errors="replace")
    return [count, step, waits, is_limited, name, state_of(process)]


def state_of(process: int) -> str:
    """The letter that /proc has for a process; "" where it has none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
