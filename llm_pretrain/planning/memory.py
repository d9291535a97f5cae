"""How much memory a trace holds at its fullest, and for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from llm_pretrain.planning.trace import Allocation, Mark, Part, Release, Trace


@dataclass(frozen=True)
class Memory:
    """What a rank holds at its fullest moment under a mark.

    Attributes:
        bytes: of all tensors.
        parts: the same by what it is for.
        moment: the pass or the block that runs then.
        before: what was held when it began.
    """

    bytes: int
    parts: Mapping[Part, int]
    moment: Mark
    before: Mapping[Part, int]

    def plus(self, parts: Mapping[Part, int], times: int) -> Memory:
        """With so much more."""
        if not times:
            return self
        more = {
            part: self.parts.get(part, 0) + times * parts.get(part, 0)
            for part in {**self.parts, **parts}
        }
        return replace(self, bytes=self.bytes + times * sum(parts.values()), parts=more)

    def on_line(self, more: Memory, further: int) -> Memory:
        """With so many blocks or chunks more than `self` has, where `more` has one more."""
        names = {**self.parts, **more.parts}
        each = {part: more.parts.get(part, 0) - self.parts.get(part, 0) for part in names}
        return self.plus(each, further)


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
    sizes: dict[int, tuple[int, Part]] = {}
    held: Counter[Part] = Counter()
    total = most = 0
    moment, before = Mark("start"), dict(held)
    # Of the highest point so far; None while memory stands there, which is before it is less.
    highest: dict[Part, int] | None = None
    found: list[Memory] = []
    for number, event in enumerate(trace.events):
        if isinstance(event, Allocation):
            sizes[event.number] = event.size, event.part
            held[event.part] += event.size
            total += event.size
            if total > most:
                most, highest = total, None
        elif isinstance(event, Release):
            if highest is None:
                highest = dict(held)
            size, part = sizes.pop(event.number)
            held[part] -= size
            total -= size
        elif isinstance(event, Mark):
            now = dict(held)
            if number > begin:
                found.append(Memory(most, highest or now, moment, before))
            moment, before, most, highest = event, now, total, None
    found.append(Memory(most, highest or dict(held), moment, before))
    return found
