"""Memory through the sections of a trace: what is held at the end of each, and its peak by part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from llm_pretrain.planning.time import begins
from llm_pretrain.planning.trace import Allocation, Event, Mark, Part, Release

Bytes = Mapping[str, float]
"""Bytes by part of memory (`trace.Part`)."""


@dataclass(frozen=True)
class Stretch:
    """A section's memory: its peak, by part at the moment of it, and what is held at its ends."""

    mark: Mark
    held_before: Bytes
    peak: Bytes
    held_after: Bytes
    apart: Bytes
    """The peak of what passes make and the peak of states, each at its own moment."""


def total(memory: Bytes) -> float:
    return sum(memory.values())


def plus(one: Bytes, other: Bytes, times: float = 1.0) -> Bytes:
    """`one` and `times` the `other`, part by part."""
    return {part: one.get(part, 0.0) + times * other.get(part, 0.0) for part in {**one, **other}}


OF_PASSES = ("activations", "logits", "other")
"""Parts that a micro-batch's size decides on; the others are of states."""


class _Highest:
    """The highest point of the parts `names`, as their sum goes up and down."""

    def __init__(self, held: Mapping[str, float], names: Container[str] | None) -> None:
        self._held = held
        self._names = names
        self.now = 0.0
        self.begin()

    def begin(self) -> None:
        """Forget what was before."""
        self._highest = self.now
        self._peak: dict[str, float] | None = self._copy()

    def changed(self, part: str, size: float) -> None:
        """`size` bytes more (or less) are about to be held."""
        if self._names is not None and part not in self._names:
            return
        if size < 0 and self._peak is None:
            self._peak = self._copy()
        self.now += size
        if self.now > self._highest:
            self._highest, self._peak = self.now, None

    def peak(self) -> dict[str, float]:
        return self._copy() if self._peak is None else self._peak

    def _copy(self) -> dict[str, float]:
        names = self._names
        return {part: held for part, held in self._held.items() if names is None or part in names}


def profile(events: Iterable[Event]) -> list[Stretch]:
    """The stretches of a trace, in order; what a backward pass computes again belongs to it."""
    held: defaultdict[str, float] = defaultdict(float)
    states = frozenset(get_args(Part)) - frozenset(OF_PASSES)
    whole, passes, states_alone = (_Highest(held, names) for names in (None, OF_PASSES, states))
    all_three = (whole, passes, states_alone)
    sizes: dict[int, tuple[str, int]] = {}
    stretches: list[Stretch] = []
    mark, before = Mark("start"), dict(held)

    def change(part: str, size: float) -> None:
        for highest in all_three:
            highest.changed(part, size)
        held[part] += size

    def ended() -> Stretch:
        apart = {**passes.peak(), **states_alone.peak()}
        return Stretch(mark, before, whole.peak(), dict(held), apart)

    for event in events:
        match event:
            case Allocation():
                sizes[event.number] = (event.part, event.size)
                change(event.part, event.size)
            case Release() if event.number in sizes:
                part, size = sizes.pop(event.number)
                change(part, -size)
            case Mark():
                if not begins(event, mark):
                    continue
                stretches.append(ended())
                mark, before = event, dict(held)
                for highest in all_three:
                    highest.begin()
    stretches.append(ended())
    return stretches


def peak_of(stretches: Iterable[Stretch]) -> Bytes:
    """The highest peak of them all, by part."""
    return max((stretch.peak for stretch in stretches), key=total)
