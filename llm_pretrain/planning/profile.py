"""Memory through the sections of a trace: what is held at the end of each, and its peak by part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llm_pretrain.planning.trace import Allocation, Event, Mark, Release

Bytes = Mapping[str, float]
"""Bytes by part of memory (`trace.Part`)."""


@dataclass(frozen=True)
class Stretch:
    """A section's memory: its peak, by part at the moment of it, and what is held at its ends."""

    mark: Mark
    held_before: Bytes
    peak: Bytes
    held_after: Bytes


def total(memory: Bytes) -> float:
    return sum(memory.values())


def plus(one: Bytes, other: Bytes, times: float = 1.0) -> Bytes:
    """`one` and `times` the `other`, part by part."""
    return {part: one.get(part, 0.0) + times * other.get(part, 0.0) for part in {**one, **other}}


def profile(events: Iterable[Event]) -> list[Stretch]:
    """The stretches of a trace, in order; what a backward pass computes again belongs to it."""
    held: defaultdict[str, float] = defaultdict(float)
    now = peak_total = 0.0
    sizes: dict[int, tuple[str, int]] = {}
    stretches: list[Stretch] = []
    mark, before, peak = Mark("start"), {}, {}

    def close() -> None:
        stretches.append(Stretch(mark, before, peak, dict(held)))

    for event in events:
        match event:
            case Allocation():
                sizes[event.number] = (event.part, event.size)
                held[event.part] += event.size
                now += event.size
                if now > peak_total:
                    peak_total, peak = now, None
            case Release():
                if peak is None:
                    peak = dict(held)
                part, size = sizes.pop(event.number)
                held[part] -= size
                now -= size
            case Mark() if event.phase != "recompute":
                if peak is None:
                    peak = dict(held)
                close()
                mark, before, peak, peak_total = event, dict(held), dict(held), now
    if peak is None:
        peak = dict(held)
    close()
    return stretches


def peak_of(stretches: Iterable[Stretch]) -> Bytes:
    """The highest peak of them all, by part."""
    return max((stretch.peak for stretch in stretches), key=total)
