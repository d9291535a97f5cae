"""How much memory a trace holds at its fullest, and for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from llm_pretrain.planning.trace import Allocation, Mark, Part, Release, Trace


@dataclass(frozen=True)
class Memory:
    """What a rank holds at its fullest moment.

    Attributes:
        bytes: of all tensors.
        parts: the same by what it is for.
        moment: the pass or the block that runs then.
    """

    bytes: int
    parts: Mapping[Part, int]
    moment: Mark


def steps_begin(trace: Trace) -> int:
    """The event with which the first step begins: all before builds the model."""
    return next(
        number
        for number, event in enumerate(trace.events)
        if isinstance(event, Mark) and event.phase != "start"
    )


def last_step_begins(trace: Trace) -> int:
    """The event with which the last step begins."""
    begins, is_between = 0, True
    for number, event in enumerate(trace.events):
        if isinstance(event, Mark):
            if is_between and event.phase == "forward":
                begins = number
            is_between = event.phase in ("start", "update")
    return begins


def fullest(trace: Trace, *, begin: int = 0) -> Memory:
    """The fullest moment from an event on."""
    return max(moments(trace, begin=begin), key=lambda memory: memory.bytes)


def moments(trace: Trace, *, begin: int = 0) -> list[Memory]:
    """The fullest moment under each mark from an event on, in order."""
    sizes: dict[int, int] = {}
    parts: dict[int, Part] = {}
    held: Counter[Part] = Counter()
    total = most = 0
    moment = Mark("start")
    found: list[Memory] = []
    snapshot: dict[Part, int] = {}
    for number, event in enumerate(trace.events):
        if isinstance(event, Allocation):
            sizes[event.number], parts[event.number] = event.size, event.part
            held[event.part] += event.size
            total += event.size
            if total > most:
                most, snapshot = total, dict(held)
        elif isinstance(event, Release):
            size = sizes.pop(event.number)
            held[parts[event.number]] -= size
            total -= size
        elif isinstance(event, Mark):
            if number > begin:
                found.append(Memory(most, snapshot, moment))
            moment, most, snapshot = event, total, dict(held)
    found.append(Memory(most, snapshot, moment))
    return found
