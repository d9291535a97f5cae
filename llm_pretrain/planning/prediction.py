"""Time and memory of a stage of a pipeline, from traces of few blocks, few chunks and few ranks.

Three lines stand for models and pipelines of any size. Between two marks of a trace memory is a
linear function of the number of blocks: each block leaves as much as the one before it, and takes
as much again on the way back. So it is of the chunks, those between the first and the last being
alike. And each further pass that the schedule has under way keeps as much as the last one before
it did. One pair of traces, of six blocks and of seven, gives both time and memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

from llm_pretrain.config import Degrees, RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.parallel.pipeline.schedules import Place, training_schedule, warm_up_passes
from llm_pretrain.planning.layouts import Layout, run_with, stage_rank
from llm_pretrain.planning.machines import Machine
from llm_pretrain.planning.memory import Memory, last_step_begins, moments
from llm_pretrain.planning.step import StageTime, stage_time
from llm_pretrain.planning.time import Seconds, Span, Timed, add, sections, spans_of, timeline
from llm_pretrain.planning.trace import Axis, Event, Mark, Message, Part, Trace

_ENDS = 3
"""Blocks at either end of a pass that are told apart: two reductions may go on behind one."""
FEW = 2 * _ENDS
"""Blocks of a chunk that are traced, and one more. Of fewer, what waits for messages at either end
is not hidden yet."""
_CHUNKS = 3
"""That are traced, and one more: the first, the last and one between."""
_WARM_UP = 2
"""Passes before the first backward pass that show what each further one keeps."""


class Program(Protocol):
    """The program that is planned for."""

    def trace(
        self, run: RunConfig, model: ModelConfig, degrees: Degrees, rank: int, *, steps: int
    ) -> Trace:
        """The events of some steps of a rank."""


@dataclass(frozen=True)
class StageCosts:
    """What a stage takes.

    Attributes:
        time: of its passes.
        memory: at its fullest, in a step that is not the first. Exact but for buckets: of
            `sharding_comm_buffer_size_MB` as they are, what lives for one bucket alone, while it
            is updated, is counted as if all of the rank's vectors or matrices were in one.
        message: bytes of its largest message to another stage.
    """

    time: StageTime
    memory: Memory
    message: int


@dataclass(frozen=True)
class _Traced:
    """Of one trace, or a point on the line through two."""

    time: StageTime
    places: Mapping[tuple[object, ...], Memory]
    message: int


class StagePredictor:
    """Predicts the stages of a run's layouts on a machine."""

    def __init__(
        self, run: RunConfig, model: ModelConfig, machine: Machine, program: Program
    ) -> None:
        self.run, self.model = run, model
        self.machine, self.program = machine, program

    def stage(self, layout: Layout, stage: int) -> StageCosts:
        """The costs of a stage."""
        return _Stage(self, layout, stage).costs()

    def events(self, layout: Layout, stage: int) -> list[Event]:
        """Two steps of the first rank of a stage, with all of its blocks and as many micro-batches
        as show its highest point."""
        here = _Stage(self, layout, stage)
        return here.trace(here.place, None).events


class _Stage:
    def __init__(self, predictor: StagePredictor, layout: Layout, stage: int) -> None:
        self.whole = predictor
        self.layout = layout
        self.place = Place(stage, layout.pipeline, layout.virtual)
        self.blocks = self._blocks_of_chunk()
        order = predictor.run.training.hybrid_parallel_topo_order
        self.spans = spans_of(layout.degrees, order, predictor.machine.devices_per_node)

    def _blocks_of_chunk(self) -> int | None:
        """The blocks of each chunk; None where chunks or blocks are not alike."""
        training = self.whole.run.training
        if self.layout.recompute and (
            training.no_recompute_layers or training.pp_recompute_interval != 1
        ):
            return None
        layers, place = self.whole.model.num_hidden_layers, self.place
        parts = place.ranks * place.chunks
        if place.chunks > 1:
            return None if layers % parts else layers // parts
        return (place.rank + 1) * layers // parts - place.rank * layers // parts

    def costs(self) -> StageCosts:
        traced = (
            self._of_chunks()
            if self.blocks is not None
            else self._traced(self.place, None, Counter())
        )
        memory = max(traced.places.values(), key=lambda one: one.bytes)
        return StageCosts(traced.time, memory, traced.message)

    def _of_chunks(self) -> _Traced:
        chunks = self.place.chunks
        if chunks <= 2 * _CHUNKS + 1:  # as many as both traces would have
            return self._of_blocks(chunks)
        few, more = self._of_blocks(_CHUNKS), self._of_blocks(_CHUNKS + 1)
        further = chunks - _CHUNKS
        grown = _on_line(_without_middle(few), _without_middle(more), further)
        for passes in (grown.time.forward, grown.time.backward):
            passes[chunks - 1] = passes.pop(_CHUNKS - 1)
            for chunk in range(2, chunks - 1):
                passes[chunk] = passes[1]
        return grown

    def _of_blocks(self, chunks: int) -> _Traced:
        blocks = self.blocks
        assert blocks is not None
        if blocks <= 2 * FEW + 1:  # as many as both traces would have
            return self._of_ranks(chunks, blocks)
        few, more = (self._of_ranks(chunks, count) for count in (FEW, FEW + 1))
        return _on_line(few, more, blocks - FEW)

    def _of_ranks(self, chunks: int, blocks: int) -> _Traced:
        """The stage with so many chunks: in a short pipeline, with what more passes would keep."""
        whole = replace(self.place, chunks=chunks)
        place = _in_short_pipeline(whole)
        further = _under_way_at_most(whole, self.layout.accumulation)
        further.subtract(_under_way_at_most(place, self._micro_batches(place)))
        return self._traced(place, blocks, further)

    def _micro_batches(self, place: Place) -> int:
        """As few as fill the pipeline from that stage on, and then go round once; and no more than
        the layout has."""
        ranks, wanted = place.ranks, self.layout.accumulation
        if place.chunks > 1:
            return min(wanted // self.place.ranks, 2) * ranks
        return min(wanted, ranks + 1 if place.rank == 0 < ranks - 1 else ranks - place.rank + 2)

    def _traced(self, place: Place, blocks: int | None, further: Counter[int]) -> _Traced:
        """From one trace.

        Args:
            blocks: of each chunk; None is the model as it is.
            further: by chunk, passes that are under way in the layout, and not in that place.
        """
        whole, count = self.whole, self._micro_batches(place)
        trace = self.trace(place, blocks)
        line = spread_over(timeline(trace.events, whole.machine), self.spans)
        found = moments(trace, begin=last_step_begins(trace))
        waiting = (self.layout.accumulation - count) * self._bytes_of_micro_batch()
        kept = _kept(found)
        more: Counter[Part] = Counter()
        for chunk, passes in further.items():
            for part, size in kept.get(chunk, {}).items():
                more[part] += passes * size
        most = _under_way_at_most(place, count).total()
        places: dict[tuple[object, ...], Memory] = {}
        for memory, passes in _under_way(found):
            key = _key(memory.moment, blocks)
            if key is None:
                continue
            grown = memory.plus(more, 1) if passes == most else memory
            if key not in places or grown.bytes > places[key].bytes:
                places[key] = grown.plus({"activations": waiting}, 1)
        return _Traced(
            stage_time(list(sections(line, self.spans, whole.machine))),
            places,
            largest_message(trace),
        )

    def trace(self, place: Place, blocks: int | None) -> Trace:
        """Of two steps, at a place of another pipeline, with so many blocks a chunk."""
        model = self.whole.model
        if blocks is not None:
            model = replace(model, num_hidden_layers=place.ranks * place.chunks * blocks)
        layout = replace(
            self.layout,
            pipeline=place.ranks,
            virtual=place.chunks,
            accumulation=self._micro_batches(place),
        )
        run, degrees = run_with(self.whole.run, layout), layout.degrees
        rank = stage_rank(degrees, run.training.hybrid_parallel_topo_order, place.rank)
        return self.whole.program.trace(run, model, degrees, rank, steps=2)

    def _bytes_of_micro_batch(self) -> int:
        """Tokens and labels, int64, which the rank holds throughout the step."""
        length = self.whole.run.data.max_seq_length // self.layout.degrees.sequence
        return 2 * 8 * self.layout.micro_batch * length


def _in_short_pipeline(place: Place) -> Place:
    """The same kind of stage, of a pipeline with as few ranks as show what a pass keeps."""
    after = place.ranks - 1 - place.rank
    before = min(place.rank, 1)
    most = _WARM_UP if place.chunks == 1 else 1
    return Place(before, before + 1 + min(after, most), place.chunks)


def spread_over(line: Iterable[Timed], spans: Mapping[Axis, Span]) -> list[Timed]:
    """What takes time, with as many ranks in each group as its axis has."""
    return [
        replace(event, ranks=spans[event.axis].ranks)
        if isinstance(event, Message)
        and event.axis != "pipeline"
        and event.ranks != spans[event.axis].ranks
        else event
        for event in line
    ]


def _key(mark: Mark, blocks: int | None) -> tuple[object, ...] | None:
    """Where a moment is, said in the same way for any number of blocks; None of those between."""
    place: object = mark.block
    if mark.block is not None and blocks is not None:
        if mark.block < _ENDS:
            place = f"first {mark.block}"
        elif mark.block >= blocks - _ENDS:
            place = f"last {blocks - mark.block}"
        else:
            return None
    return mark.phase, mark.micro_batch, mark.chunk, place


def _under_way_at_most(place: Place, micro_batches: int) -> Counter[int]:
    """Passes by chunk, when the first backward pass begins."""
    schedule = training_schedule(place, micro_batches)
    forwards = [each.chunk for each in schedule if each.step == "forward"]
    return Counter(forwards[: warm_up_passes(place) + 1])


def _kept(found: Sequence[Memory]) -> dict[int | None, dict[Part, int]]:
    """What a pass before the first backward pass leaves, by chunk.

    It is told by two that follow each other through one chunk: what the second receives is there
    before it begins.
    """
    begins: list[Memory] = []
    for memory in found:
        if memory.moment.phase == "backward":
            break
        if memory.moment.phase == "forward" and memory.moment.block is None:
            begins.append(memory)
    return {
        one.moment.chunk: {
            part: other.before.get(part, 0) - one.before.get(part, 0)
            for part in {**one.before, **other.before}
        }
        for one, other in pairwise(begins)
        if one.moment.chunk == other.moment.chunk
    }


def _under_way(found: Iterable[Memory]) -> Iterator[tuple[Memory, int]]:
    """The moments of a step, each with how many passes have begun whose backward pass has not
    ended."""
    passes, ends = 0, False
    for memory in found:
        mark = memory.moment
        if mark.block is None and mark.phase != "recompute":
            passes -= ends
            ends = mark.phase == "backward"
            passes += mark.phase == "forward"
        yield memory, passes


def _without_middle(traced: _Traced) -> _Traced:
    """Moments and time by the kind of their chunk: the first, the last, or one between."""
    last = max(traced.time.forward)
    places: dict[tuple[object, ...], Memory] = {}
    for (phase, _, chunk, block), memory in traced.places.items():
        kind = "last" if chunk == last else "first" if chunk == 0 else "middle"
        key = (phase, kind, block)
        if key not in places or memory.bytes > places[key].bytes:
            places[key] = memory
    time = StageTime(once=traced.time.once)
    for phase in ("forward", "backward"):
        passes: dict[int, list[Seconds]] = getattr(traced.time, phase)
        getattr(time, phase).update({0: passes[0], 1: passes[1], _CHUNKS - 1: passes[last]})
    return replace(traced, places=places, time=time)


def _on_line(few: _Traced, more: _Traced, further: int) -> _Traced:
    """With so much more than `few` has, where `more` has one more."""
    time = StageTime()
    for phase in ("forward", "backward"):
        passes: dict[int, list[Seconds]] = getattr(time, phase)
        for chunk, small in getattr(few.time, phase).items():
            large = getattr(more.time, phase)[chunk]
            passes[chunk] = [
                _seconds_on_line(*pair, further) for pair in zip(small, large, strict=True)
            ]
    time.once = _seconds_on_line(few.time.once, more.time.once, further)
    places = {
        key: memory.on_line(more.places[key], further)
        for key, memory in few.places.items()
        if key in more.places
    }
    return _Traced(time, places, few.message)


def _seconds_on_line(small: Seconds, large: Seconds, further: int) -> Seconds:
    seconds = small.copy()
    add(seconds, large, further)
    add(seconds, small, -further)
    # What waits for messages may shrink with every block that hides them, but not below nothing.
    for part, value in seconds.items():
        seconds[part] = max(value, 0.0)
    return seconds


def largest_message(trace: Trace) -> int:
    """Bytes of the largest message to another stage."""
    return max(
        (
            event.size
            for event in trace.events
            if isinstance(event, Message) and event.kind in ("send", "receive")
        ),
        default=0,
    )
