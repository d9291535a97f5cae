"""What a block, an embedding and a head take, from traces of one and two blocks.

A stage's time and memory are linear in its blocks; each event's sizes are linear in the samples of
a micro-batch, and in the inverse of the ranks that share matrices or states. Among how many ranks a
message goes changes its time and no event. So a handful of short traces stands for thousands of
layouts. The best of them are traced whole afterwards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, get_args

from llm_pretrain.config import RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.planning.layouts import Layout, run_with, stage_rank
from llm_pretrain.planning.machines import Machine
from llm_pretrain.planning.prediction import Program, spread_over
from llm_pretrain.planning.profile import OF_PASSES, Bytes, plus, profile, total
from llm_pretrain.planning.step import StageTime, stage_time
from llm_pretrain.planning.time import Seconds, Timed, add, sections, spans_of, timeline
from llm_pretrain.planning.trace import Event

Place = str
"""Of a unit: "first" has the embedding, "last" the head, "middle" neither."""
Moment = tuple[str, int | None]
"""Of a step: a phase, and of a pass the micro-batch."""
MICRO_BATCHES = 3
"""Of a unit's step: the first, whose gradients meet none, one between, and the last."""


@dataclass(frozen=True)
class Costs:
    """Time and memory of a stage, or a part of what they are the sum of.

    Attributes:
        time: of a step of `MICRO_BATCHES`.
        peaks: of memory by part, at each moment, where one pass is kept, the one that is computed.
        steady: the peaks, but of states what is there before the moment or after it: a bucket that
            is on its way adds to a peak, and no block adds to that.
        kept: what a pass keeps for its backward pass.
    """

    time: StageTime
    peaks: dict[Moment, Bytes]
    steady: dict[Moment, Bytes]
    kept: Bytes

    @cached_property
    def pass_seconds(self) -> tuple[float, float, float]:
        """Forward and backward, of a step's first micro-batch, of one between, and of its last."""
        both = zip(self.time.forward[0], self.time.backward[0], strict=True)
        first, between, last = (sum(sum(seconds.values()) for seconds in passes) for passes in both)
        return first, between, last

    def seconds(self, passes: int) -> float:
        """Of a step of so many micro-batches, without waiting for other stages."""
        first, between, last = self.pass_seconds
        return first + (passes - 2) * between + last + sum(self.time.once.values())

    @cached_property
    def heights(self) -> dict[Moment, float]:
        """The peaks, all parts together."""
        return {moment: total(peak) for moment, peak in self.peaks.items()}

    @cached_property
    def steady_heights(self) -> dict[Moment, float]:
        return {moment: total(peak) for moment, peak in self.steady.items()}

    @cached_property
    def kept_bytes(self) -> float:
        return total(self.kept)


@dataclass(frozen=True)
class _Told:
    """What a trace tells, among however many ranks its messages go.

    Attributes:
        line: what takes time.
        peaks, steady, kept: see `Costs`.
    """

    line: list[Timed]
    peaks: dict[Moment, Bytes]
    steady: dict[Moment, Bytes]
    kept: Bytes


class Units:
    """Unit costs, each made when it is first asked for."""

    def __init__(
        self, run: RunConfig, model: ModelConfig, machine: Machine, program: Program
    ) -> None:
        self.run = replace(
            run, training=run.training.model_copy(update={"no_recompute_layers": None})
        )
        self.model = model
        self.machine = machine
        self.program = program
        self._events = functools.lru_cache(maxsize=None)(self._traced)
        self._told = functools.lru_cache(maxsize=None)(self._told_by)
        self._bare_costs = functools.lru_cache(maxsize=None)(self._costs)
        self._shape_parts = functools.lru_cache(maxsize=None)(self._parts_of_shape)
        self._state_parts = functools.lru_cache(maxsize=None)(self._parts_of_states)

    def shape(self, layout: Layout) -> Parts:
        """What a layout's micro-batches take without data parallelism."""
        return self._shape_parts(self._unit(layout, sharding="", sharding_degree=1, data=1))

    def states(self, layout: Layout) -> Parts:
        """What a layout's data-parallel ranks add to that, or take away."""
        # The way from one data-parallel rank to the next depends on the stages in between.
        pipeline = layout.pipeline if layout.data > 1 else 2
        unit = self._unit(layout, micro_batch=1, recompute="", sequence_parallel=False)
        return self._state_parts(replace(unit, pipeline=pipeline))

    def _parts_of_shape(self, unit: Layout) -> Parts:
        return _parts(lambda place, blocks: self._shape(unit, place, blocks))

    def _parts_of_states(self, unit: Layout) -> Parts:
        # Weights that are gathered when they are needed are those of two blocks at a time.
        if unit.stage == 3:
            return _parts(lambda place, blocks: self._states(unit, place, blocks), 2, True)
        return _parts(lambda place, blocks: self._states(unit, place, blocks))

    def _traced(self, unit: Layout, place: Place, blocks: int) -> list[Event]:
        """Of a pipeline of two or three stages with so many blocks each."""
        # Beyond its key heads a model's ranks hold copies of them.
        if 4 < unit.tensor <= self.model.num_key_value_heads:
            two, four = (
                self._events(replace(unit, tensor=degree), place, blocks) for degree in (2, 4)
            )
            events = blend(two, four, _between_two_and_four(unit.tensor))
            if events is not None:
                return events
        run = run_with(self.run, unit)
        order = run.training.hybrid_parallel_topo_order
        unit = replace(unit, pipeline=3 if place == "middle" else 2)
        rank = stage_rank(unit.degrees, order, 0 if place == "first" else 1)
        model = replace(self.model, num_hidden_layers=unit.pipeline * blocks)
        return self.program.trace(run, model, unit.degrees, rank, steps=1).events

    def _unit(self, layout: Layout, **changes: Any) -> Layout:
        return replace(
            layout,
            pipeline=2,
            virtual=1,
            accumulation=MICRO_BATCHES,
            **changes,
        )

    def _shape(self, unit: Layout, place: Place, blocks: int) -> Costs:
        samples = unit.micro_batch
        if samples <= 2:
            return self._costs(unit, unit, place, blocks)
        one, two = (replace(unit, micro_batch=number) for number in (1, 2))
        of_one, of_two = (self._events(_with_replicas(each), place, blocks) for each in (one, two))
        events = blend(of_one, of_two, samples - 1.0)
        if events is None:
            # Where logits are made slice by slice, more samples are more slices.
            costs = (self._costs(each, unit, place, blocks) for each in (one, two))
            return combine(*zip((2.0 - samples, samples - 1.0), costs, strict=True))
        return self._at_work(self._read(events), unit)

    def _states(self, layout: Layout, place: Place, blocks: int) -> Costs:
        bare = replace(layout, pipeline=2, sharding="", sharding_degree=1, data=1)
        terms = [(-1.0, self._bare_costs(bare, bare, place, blocks))]
        if layout.sharding:
            share = _between_two_and_four(layout.sharding_degree)
            for factor, degree in ((1.0 - share, 2), (share, 4)):
                traced = replace(bare, sharding=layout.sharding, sharding_degree=degree)
                terms.append((factor, self._costs(traced, layout, place, blocks)))
        else:
            terms.append((1.0, self._costs(bare, layout, place, blocks)))
        return combine(*terms)

    def _costs(self, traced: Layout, layout: Layout, place: Place, blocks: int) -> Costs:
        """Of the trace of `traced`, among as many ranks as `layout` has."""
        return self._at_work(self._told(_with_replicas(traced), place, blocks), layout)

    def _told_by(self, unit: Layout, place: Place, blocks: int) -> _Told:
        return self._read(self._events(unit, place, blocks))

    def _at_work(self, told: _Told, layout: Layout) -> Costs:
        order = self.run.training.hybrid_parallel_topo_order
        spans = spans_of(layout.degrees, order, self.machine.devices_per_node)
        line = spread_over(told.line, spans)
        time = stage_time(list(sections(line, spans, self.machine)))
        return Costs(time, told.peaks, told.steady, told.kept)

    def _read(self, events: Sequence[Event]) -> _Told:
        stretches = profile(events)
        # The first pass may make what stays.
        *_, last = (each for each in stretches if each.mark.phase == "forward")
        kept = {
            part: size - last.held_before.get(part, 0.0)
            for part, size in last.held_after.items()
            if part in OF_PASSES
        }
        peaks: dict[Moment, Bytes] = {}
        steady: dict[Moment, Bytes] = {}
        passes = 0
        for each in stretches:
            # Others that are kept at the same time are counted where the stage is known.
            passes += each.mark.phase == "forward"
            moment = (each.mark.phase, each.mark.micro_batch)
            peaks[moment] = plus(each.apart, kept, float(min(0, 1 - passes)))
            stays = max(each.held_before, each.held_after, key=total)
            states = {part: size for part, size in stays.items() if part not in OF_PASSES}
            steady[moment] = {**peaks[moment], **states}
            passes -= each.mark.phase == "backward"
        return _Told(timeline(events, self.machine), peaks, steady, kept)


def _with_replicas(unit: Layout) -> Layout:
    """A unit whose trace has the messages between replicas, which take no time where there is one:
    nothing else of a trace depends on how many there are."""
    return replace(unit, data=2)


def _between_two_and_four(ranks: int) -> float:
    """Where the inverse of so many ranks is, on the line from that of two (0) to that of four
    (1)."""
    return (0.5 - 1.0 / ranks) / 0.25


def blend(one: Sequence[Event], two: Sequence[Event], place: float) -> list[Event] | None:
    """The events on the line through two traces of the same kind: `one` at 0, `two` at 1.

    None where the traces differ in more than numbers.
    """
    if len(one) != len(two):
        return None
    events: list[Event] = []
    for left, right in zip(one, two, strict=True):
        if left == right:
            events.append(left)
            continue
        if type(left) is not type(right):
            return None
        changed: dict[str, Any] = {}
        for name in _NAMES[type(left)]:
            low, high = getattr(left, name), getattr(right, name)
            if low == high or name in ("number", "ranks"):
                continue
            if not isinstance(low, int) or not isinstance(high, int):
                return None
            changed[name] = round(low + place * (high - low))
        events.append(replace(left, **changed))
    return events


_NAMES: dict[type, tuple[str, ...]] = {
    kind: tuple(each.name for each in fields(kind)) for kind in get_args(Event)
}


def combine(*terms: tuple[float, Costs]) -> Costs:
    """The sum of costs, each times its factor."""
    time = StageTime()
    peaks: dict[Moment, Bytes] = {}
    steady: dict[Moment, Bytes] = {}
    kept: Bytes = {}
    for factor, costs in terms:
        for phase in ("forward", "backward"):
            passes: list[Seconds] = getattr(time, phase)[0]
            for number, seconds in enumerate(getattr(costs.time, phase)[0]):
                if number == len(passes):
                    passes.append(_none())
                add(passes[number], seconds, factor)
        add(time.once, costs.time.once, factor)
        for mine, theirs in ((peaks, costs.peaks), (steady, costs.steady)):
            for moment, peak in theirs.items():
                mine[moment] = plus(mine.get(moment, {}), peak, factor)
        kept = plus(kept, costs.kept, factor)
    return Costs(time, peaks, steady, kept)


def _none() -> Seconds:
    return StageTime().once


@dataclass(frozen=True)
class Parts:
    """What a stage is the sum of: each of its blocks, what each chunk has besides, of weights that
    are gathered the wait for the first, and what the first and the last have."""

    block: Costs
    chunk: Costs
    embedding: Costs
    head: Costs

    def costs(self) -> tuple[Costs, Costs, Costs, Costs]:
        """All of them, in that order."""
        return self.block, self.chunk, self.embedding, self.head

    def terms(
        self, blocks: int, chunks: int, *, is_first: bool, is_last: bool
    ) -> list[tuple[float, Costs]]:
        """What a stage of so many blocks and chunks is the sum of."""
        terms = [(float(blocks), self.block), (float(chunks), self.chunk)]
        terms += [(1.0, self.embedding)] if is_first else []
        terms += [(1.0, self.head)] if is_last else []
        return terms


def _parts(costs: Callable[[Place, int], Costs], least: int = 1, has_chunk: bool = False) -> Parts:
    """From stages of `least` blocks and of one more."""
    first, longer, last = costs("first", least), costs("first", least + 1), costs("last", least)
    block = combine((1.0, longer), (-1.0, first))
    block = replace(block, peaks=block.steady)
    blocks = (-float(least), block)
    chunk = combine((1.0, costs("middle", least)), blocks) if has_chunk else combine((0.0, block))
    ends = (combine((1.0, end), blocks, (-1.0, chunk)) for end in (first, last))
    return Parts(block, chunk, *ends)
