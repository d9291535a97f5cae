"""The best of all layouts: cheap bounds first, then sums of unit costs, then whole traces."""

from __future__ import annotations

import functools
import gc
import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from llm_pretrain.config import RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.parallel.pipeline.schedules import Place, warm_up_passes
from llm_pretrain.planning.allocator import OutOfMemoryError
from llm_pretrain.planning.layouts import RECOMPUTE, Layout, frames, with_sharding
from llm_pretrain.planning.machines import Machine
from llm_pretrain.planning.plan import Plan, Planner, StageKind, stage_kind, with_outside
from llm_pretrain.planning.prediction import Program
from llm_pretrain.planning.profile import total
from llm_pretrain.planning.step import StageTime, StepTime, step_time
from llm_pretrain.planning.time import Seconds, add, message_seconds, spans_of
from llm_pretrain.planning.trace import Message
from llm_pretrain.planning.units import MICRO_BATCHES, Moment, Parts, Units, combine
from llm_pretrain.training.folders import OPTIMIZER_BYTES

SHOWN = 5
_CANDIDATES = 12
"""Layouts whose schedules are played, of which the best are traced whole."""
_SLACK = 1.03
"""Sums of unit costs may say a little more memory than a whole trace, which decides."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        plans: the best that fit, the fastest first.
        considered: the legal layouts there are.
        smallest: where none fits, the layout that comes nearest.
    """

    plans: tuple[Plan, ...]
    considered: int
    smallest: Plan | None


def search(
    run: RunConfig,
    model: ModelConfig,
    machine: Machine,
    program: Program,
    *,
    devices: int,
    samples: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Found:
    """The best layouts of a run on so many devices, at `samples` a step over all of them.

    `tell` hears from time to time how far the search is.
    """
    with _uncollected():
        return _Search(Planner(run, model, machine, program), devices, samples, tell).run()


def nearest(
    run: RunConfig,
    model: ModelConfig,
    machine: Machine,
    program: Program,
    own: Layout,
    *,
    samples: int,
) -> tuple[Plan | None, int]:
    """The layout that fits and differs from `own` in the fewest keys, and how many there are.

    None where none fits. Of those with as few keys the fastest by its bound.
    """
    found = _Search(Planner(run, model, machine, program), own.degrees.world_size, samples)
    return found.nearest(own), found.considered


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's collector, which looks through all traces again and again and finds
    nothing: a tenth of a search."""
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_collecting:
            gc.enable()


class _Search:
    def __init__(
        self,
        planner: Planner,
        devices: int,
        samples: int,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.planner = planner
        self.tell = tell
        self.model, self.machine = planner.model, planner.machine
        self.units = Units(planner.run, planner.model, planner.machine, planner.program)
        self.order = planner.run.training.hybrid_parallel_topo_order
        self.frames = list(frames(planner.run, planner.model, devices, samples))
        # Without scores in memory there is nothing of the core that recompute could save.
        self.recompute = [
            kind for kind in RECOMPUTE if kind != "core_attn" or not self.model.use_flash_attention
        ]
        self.length = planner.run.data.max_seq_length
        self.tokens_per_device = samples * self.length / devices
        shapes = planner.model.tensor_shapes()
        matrices = {name: math.prod(shape) for name, shape in shapes.items() if len(shape) > 1}
        in_blocks = {name: size for name, size in matrices.items() if name.startswith("layers.")}
        self.block_weights = float(sum(in_blocks.values()))
        self.attention_weights = float(
            sum(size for name, size in in_blocks.items() if ".attention." in name)
        )
        head = planner.model.vocab_size * planner.model.hidden_size
        self.parameters = planner.model.parameter_count()
        self.matrix_weights = self.block_weights + head

    def run(self) -> Found:
        played = sorted(
            ((self._step(layout).total, layout) for layout in self._estimates()),
            key=lambda one: one[0],
        )
        plans: list[Plan] = []
        for seconds, layout in played:
            if len(plans) == SHOWN and seconds >= plans[-1].step.total:
                break
            self.tell(f"{len(plans)} of the best {SHOWN} are certain; {layout.describe()}")
            plan = self.planner.plan(layout)
            if total(plan.memory) <= self.machine.memory:
                with suppress(OutOfMemoryError):
                    plans.append(self.planner.replayed(plan))
            plans = sorted(plans, key=lambda plan: plan.step.total)[:SHOWN]
        smallest = None if plans else self._smallest()
        return Found(tuple(plans), self.considered, smallest)

    @property
    def considered(self) -> int:
        return sum(len(RECOMPUTE) * _kinds_of_sharding(frame.data) for frame in self.frames)

    def nearest(self, own: Layout) -> Plan | None:
        mine, room = own.keys().items(), self.machine.memory
        layouts = [
            (len(layout.keys().items() - mine), self._bound(frame, recompute), number, layout)
            for number, frame in enumerate(self.frames)
            for recompute in self.recompute
            for layout in with_sharding(replace(frame, recompute=recompute))
            if self._least_bytes(layout) <= room
        ]
        layouts.sort(key=lambda each: each[:3])
        for *_, layout in layouts:
            samples = layout.micro_batch * layout.accumulation
            least = replace(layout, recompute="full", micro_batch=1, accumulation=samples)
            # Few traces tell of many layouts that they fit in no way.
            if any(self._size(each) > _SLACK * room for each in (least, layout)):
                continue
            plan = self.planner.plan(layout)
            if total(plan.memory) <= room:
                with suppress(OutOfMemoryError):
                    return self.planner.replayed(plan)
        return None

    def _estimates(self) -> list[Layout]:
        """The fastest layouts by sums of unit costs that fit, some more than are wanted."""
        kinds = [
            (self._bound(frame, recompute), number, frame, recompute)
            for number, frame in enumerate(self.frames)
            for recompute in self.recompute
        ]
        kinds.sort(key=lambda each: each[:2])
        best: list[tuple[float, int, Layout]] = []
        number = 0
        for tried, (bound, _, frame, recompute) in enumerate(kinds):
            if tried % 32 == 0:
                self.tell(f"{tried:,} of {len(kinds):,} kinds of layouts estimated")
            if len(best) == _CANDIDATES and bound >= -best[0][0]:
                break
            for layout in with_sharding(replace(frame, recompute=recompute)):
                number += 1
                if self._least_bytes(layout) > self.machine.memory:
                    continue
                seconds = self._seconds(layout)
                if len(best) == _CANDIDATES and seconds >= -best[0][0]:
                    continue
                if self._size(layout) > _SLACK * self.machine.memory:
                    continue
                heapq.heappush(best, (-seconds, -number, layout))
                if len(best) > _CANDIDATES:
                    heapq.heappop(best)
        return [layout for *_, layout in sorted(best, reverse=True)]

    def _least_bytes(self, layout: Layout) -> float:
        """Bytes that a rank of the first stage holds at least.

        Of an average stage weights, gradients, masters and moments; and what enters each of its
        blocks, of each pass that is under way, even where it computes them again.
        """
        model, training = self.model, self.planner.run.training
        width = 4 if training.weight_dtype == "float32" else 2
        stage, shards = layout.stage, layout.sharding_degree
        of_weights = width / (shards if stage == 3 else 1) + width / (shards if stage >= 2 else 1)
        of_states = of_weights + OPTIMIZER_BYTES / shards
        states = self.parameters / (layout.tensor * layout.pipeline) * of_states
        parts = layout.degrees.sequence * (layout.tensor if layout.sequence_parallel else 1)
        tokens = layout.micro_batch * self.length / parts
        blocks = model.num_hidden_layers // layout.pipeline
        passes = (
            min(
                warm_up_passes(Place(0, layout.pipeline, layout.virtual)) + 1,
                layout.accumulation * layout.virtual,
            )
            / layout.virtual
        )
        return states + width * tokens * model.hidden_size * blocks * passes

    def _bound(self, frame: Layout, recompute: str) -> float:
        """Seconds that a step takes at least.

        Products: 6 operations for each weight of a matrix and token, and 2 more for those that are
        computed twice; attention, half of it masked; the messages of tensor parallelism forward,
        which each block waits for twice; and the pipeline's wait.
        """
        machine, model, tokens = self.machine, self.model, self.tokens_per_device
        dtype = self.planner.run.training.compute_dtype
        twice = {"full": self.block_weights, "full_attn": self.attention_weights}
        weights = 6.0 * self.matrix_weights + 2.0 * twice.get(recompute, 0.0)
        width = model.num_attention_heads * model.head_dim
        scores = 2.0 * model.num_hidden_layers * width * self.length * tokens
        forward, backward = machine.attention_forward, machine.attention_backward
        attention = scores * (1.0 / forward + 2.5 / backward) / machine.sustained
        work = weights * tokens / machine.product_rate(1e15, dtype) + attention / self.planner.peak
        if frame.tensor > 1:
            bytes_each = 4 if self.planner.run.training.weight_dtype == "float32" else 2
            size = frame.micro_batch * self.length * model.hidden_size * bytes_each
            message = Message("all-reduce", size // frame.degrees.sequence, "tensor", frame.tensor)
            spans = spans_of(frame.degrees, self.order, machine.devices_per_node)
            each = message_seconds(message, spans["tensor"], machine)
            blocks = model.num_hidden_layers / frame.pipeline
            work += 2.0 * blocks * frame.accumulation * each
        passes = frame.accumulation * frame.virtual
        return work * (passes + frame.pipeline - 1) / passes

    def _of(self, layout: Layout) -> tuple[Parts, Parts]:
        return self.units.shape(layout), self.units.states(layout)

    def _seconds(self, layout: Layout) -> float:
        """Of a step, its stages being alike but for the model's ends."""
        both, ranks = self._of(layout), layout.pipeline
        blocks = -(-self.model.num_hidden_layers // ranks)
        block, chunk, embedding, head = (
            sum(each.seconds(layout.accumulation) for each in costs)
            for costs in zip(*(parts.costs() for parts in both), strict=True)
        )
        between = blocks / layout.virtual * sum(parts.block.pass_seconds[1] for parts in both)
        between += sum(parts.chunk.pass_seconds[1] for parts in both)
        ends = embedding + head if ranks == 1 else max(embedding, head)
        return blocks * block + layout.virtual * chunk + ends + (ranks - 1) * between

    def _size(self, layout: Layout) -> float:
        """Bytes of the fullest rank, which is one of the first stage or of the last."""
        both, layers = self._of(layout), self.model.num_hidden_layers
        ranks, chunks = layout.pipeline, layout.virtual
        most = 0.0
        for stage, is_first, is_last in _ends(ranks):
            blocks = (stage + 1) * layers // ranks - stage * layers // ranks
            passes = warm_up_passes(Place(stage, ranks, chunks)) + 1
            more = min(passes, layout.accumulation * chunks) / chunks - 1.0
            terms = [
                term
                for parts in both
                for term in parts.terms(blocks, 1, is_first=is_first, is_last=is_last)
            ]
            kept = more * sum(factor * costs.kept_bytes for factor, costs in terms)
            # A single stage has both ends, which are at their peaks one after the other.
            others = [parts.embedding if is_last else parts.head for parts in both if ranks == 1]
            for moment in terms[0][1].heights:
                if not _is_of(moment, layout):
                    continue
                height = sum(factor * costs.heights.get(moment, 0.0) for factor, costs in terms)
                height += sum(costs.steady_heights.get(moment, 0.0) for costs in others)
                most = max(most, height + (kept if _keeps(moment) else 0.0))
        return total(with_outside({"tensors": most}, layout.degrees, self.machine))

    def _step(self, layout: Layout) -> StepTime:
        both, ranks, chunks = self._of(layout), layout.pipeline, layout.virtual
        kinds: dict[StageKind, StageTime] = {}
        stages: list[StageTime] = []
        for rank in range(ranks):
            kind = stage_kind(self.model, layout.degrees, rank)
            if kind not in kinds:
                kinds[kind] = _composed(both, kind, layout.accumulation)
            stages.append(kinds[kind])
        return step_time(stages, chunks, layout.accumulation, self._message(layout))

    def _message(self, layout: Layout) -> float:
        if layout.pipeline == 1:
            return 0.0
        run = self.planner.run
        length = run.data.max_seq_length // layout.degrees.sequence
        length //= layout.tensor if layout.sequence_parallel else 1
        size = 4 if run.training.weight_dtype == "float32" else 2
        size *= layout.micro_batch * length * self.model.hidden_size
        spans = spans_of(layout.degrees, self.order, self.machine.devices_per_node)
        message = Message("send", size, "pipeline", layout.pipeline)
        return message_seconds(message, spans["pipeline"], self.machine)

    def _smallest(self) -> Plan | None:
        """The layout of the least memory, though it doesn't fit."""
        least = [
            layout
            for frame in self.frames
            if frame.micro_batch == 1
            for layout in with_sharding(replace(frame, recompute="full"))
            if layout.data == 1 and layout.virtual == 1
        ]
        if not least:
            return None
        return self.planner.plan(min(least, key=self._size))


def _kinds_of_sharding(ranks: int) -> int:
    return sum(1 for _ in with_sharding(_one(ranks)))


@functools.cache
def _one(ranks: int) -> Layout:
    return Layout(1, 1, 1, 1, 1, False, "", 1, ranks, "", 1, 1)


def _ends(ranks: int) -> list[tuple[int, bool, bool]]:
    """Of a pipeline's first stage and last: which it is, and whether the model begins or ends
    there."""
    return [(0, True, False), (ranks - 1, False, True)]


def _is_of(moment: Moment, layout: Layout) -> bool:
    """Whether a step of the layout has that moment, which is one of a run's first step."""
    if layout.stage >= 2:
        # In others shards of gradients are there, of the step before.
        return moment != ("backward", 0)
    return layout.accumulation > 1 or moment[1] in (None, 0)


def _keeps(moment: Moment) -> bool:
    """Whether other passes are kept then, too: the last backward pass of a step is alone."""
    phase, micro_batch = moment
    return phase == "forward" or (phase == "backward" and micro_batch != MICRO_BATCHES - 1)


def _alone(first: Seconds, between: Seconds, last: Seconds) -> Seconds:
    """The only pass of a step: a first one with what a last one has besides."""
    alone = first.copy()
    add(alone, last)
    add(alone, between, -1.0)
    return alone


def _composed(both: Sequence[Parts], kind: StageKind, micro_batches: int) -> StageTime:
    """A stage of that kind, by chunk."""
    counts, is_first, is_last = kind
    stage = StageTime()
    for chunk, count in enumerate(counts):
        costs = combine(
            *(
                term
                for parts in both
                for term in parts.terms(
                    count,
                    1,
                    is_first=is_first and chunk == 0,
                    is_last=is_last and chunk == len(counts) - 1,
                )
            )
        )
        for phase in ("forward", "backward"):
            passes: list[Seconds] = getattr(costs.time, phase)[0]
            getattr(stage, phase)[chunk] = passes if micro_batches > 1 else [_alone(*passes)]
        add(stage.once, costs.time.once)
    return stage
