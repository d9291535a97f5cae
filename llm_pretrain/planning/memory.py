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


def fullest(trace: Trace, *, begin: int = 0) -> Memory:
    """The fullest moment from an event on."""
    sizes: dict[int, int] = {}
    held = most = 0
    at = begin
    for number, event in enumerate(trace.events):
        if isinstance(event, Allocation):
            sizes[event.number] = event.size
            held += event.size
            if held > most and number >= begin:
                most, at = held, number
        elif isinstance(event, Release):
            held -= sizes[event.number]
    return _at(trace, at)


def _at(trace: Trace, last: int) -> Memory:
    """What is held after the event of that number."""
    alive: dict[int, Allocation] = {}
    moment = Mark("start")
    for event in trace.events[: last + 1]:
        if isinstance(event, Allocation):
            alive[event.number] = event
        elif isinstance(event, Release):
            del alive[event.number]
        elif isinstance(event, Mark):
            moment = event
    parts: Counter[Part] = Counter()
    for each in alive.values():
        parts[each.part] += each.size
    return Memory(sum(parts.values()), dict(parts), moment)
