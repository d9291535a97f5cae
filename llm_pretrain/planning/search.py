"""The best of all layouts: cheap bounds first, then sums of unit costs, then whole traces."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from llm_pretrain.config import RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.parallel.pipeline.schedules import Place, warm_up_passes
from llm_pretrain.planning.layouts import RECOMPUTE, Layout, frames, with_sharding
from llm_pretrain.planning.machines import Machine
from llm_pretrain.planning.plan import Plan, Planner, with_outside
from llm_pretrain.planning.profile import Bytes, plus, total
from llm_pretrain.planning.step import StageTime, StepTime, step_time
from llm_pretrain.planning.time import message_seconds, spans_of
from llm_pretrain.planning.trace import Message
from llm_pretrain.planning.units import Costs, Parts, Tracer, Units, combine

SHOWN = 5
_CANDIDATES = 16
"""Layouts whose schedules are played, of which the best are traced whole."""


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
    trace: Tracer,
    *,
    devices: int,
    samples: int,
) -> Found:
    """The best layouts of a run on so many devices, at `samples` a step over all of them."""
    return _Search(Planner(run, model, machine, trace), devices, samples).run()


class _Search:
    def __init__(self, planner: Planner, devices: int, samples: int) -> None:
        self.planner = planner
        self.model, self.machine = planner.model, planner.machine
        self.units = Units(planner.run, planner.model, planner.machine, planner.trace)
        self.order = planner.run.training.hybrid_parallel_topo_order
        self.frames = list(frames(planner.run, planner.model, devices, samples))
        self.parts = functools.lru_cache(maxsize=None)(self._parts)
        length = planner.run.data.max_seq_length
        self.tokens_per_device = samples * length / devices

    def run(self) -> Found:
        estimates = self._estimates()
        played = sorted((self._played(layout) for _, layout in estimates), key=lambda each: each[0])
        plans: list[Plan] = []
        for _, layout in played:
            plan = self.planner.plan(layout)
            if total(plan.memory) <= self.machine.memory:
                plans.append(plan)
            if len(plans) == SHOWN:
                break
        plans.sort(key=lambda plan: plan.step.total)
        considered = sum(len(RECOMPUTE) * _kinds_of_sharding(frame.data) for frame in self.frames)
        smallest = None if plans else self._smallest()
        return Found(tuple(plans), considered, smallest)

    def _estimates(self) -> list[tuple[float, Layout]]:
        """The fastest layouts by sums of unit costs that fit, some more than are wanted."""
        kinds = [
            (self._bound(frame, recompute), number, frame, recompute)
            for number, frame in enumerate(self.frames)
            for recompute in RECOMPUTE
        ]
        kinds.sort(key=lambda each: each[:2])
        best: list[tuple[float, int, Layout]] = []
        number = 0
        for bound, _, frame, recompute in kinds:
            if len(best) == _CANDIDATES and bound >= -best[0][0]:
                break
            for layout in with_sharding(replace(frame, recompute=recompute)):
                number += 1
                seconds = self._seconds(layout)
                if len(best) == _CANDIDATES and seconds >= -best[0][0]:
                    continue
                if total(self._memory(layout)) > self.machine.memory:
                    continue
                heapq.heappush(best, (-seconds, -number, layout))
                if len(best) > _CANDIDATES:
                    heapq.heappop(best)
        return sorted(((-seconds, layout) for seconds, _, layout in best), key=lambda one: one[0])

    def _bound(self, frame: Layout, recompute: str) -> float:
        """Seconds that a step takes at least: the products of matrices, and the pipeline's wait.

        6 operations for each weight of a matrix and token, 8 where blocks are computed twice.
        """
        model = self.model
        table = model.vocab_size * model.hidden_size
        weights = model.parameter_count() - (0 if model.tie_word_embeddings else table)
        flops = 6.0 * weights * self.tokens_per_device
        if recompute == "full":
            flops += 2.0 * (weights - table) * self.tokens_per_device
        dtype = self.planner.run.training.compute_dtype
        work = flops / self.machine.product_rate(1e15, dtype)
        passes = frame.accumulation * frame.virtual
        return work * (passes + frame.pipeline - 1) / passes

    def _parts(self, shape: Layout, states: Layout) -> Parts:
        one, other = self.units.shape(shape), self.units.states(states)
        return Parts(
            combine((1.0, one.block), (1.0, other.block)),
            combine((1.0, one.embedding), (1.0, other.embedding)),
            combine((1.0, one.head), (1.0, other.head)),
        )

    def _of(self, layout: Layout) -> Parts:
        shape = replace(
            layout, pipeline=2, virtual=1, accumulation=2, sharding="", sharding_degree=1, data=1
        )
        states = replace(
            layout,
            pipeline=layout.pipeline if layout.data > 1 else 2,
            virtual=1,
            accumulation=2,
            micro_batch=1,
            recompute="",
            sequence_parallel=False,
        )
        return self.parts(shape, states)

    def _seconds(self, layout: Layout) -> float:
        """Of a step, its stages being alike but for the model's ends."""
        parts = self._of(layout)
        blocks = -(-self.model.num_hidden_layers // layout.pipeline)
        block, ends = _pass_seconds(parts.block), 0.0
        embedding, head = _pass_seconds(parts.embedding), _pass_seconds(parts.head)
        ends = max(embedding, head) if layout.pipeline > 1 else embedding + head
        once = [sum(part.time.once.values()) for part in (parts.block, parts.embedding, parts.head)]
        wait = (layout.pipeline - 1) * blocks * block / layout.virtual
        return (
            layout.accumulation * (blocks * block + ends)
            + wait
            + blocks * once[0]
            + (max(once[1:]) if layout.pipeline > 1 else sum(once[1:]))
        )

    def _memory(self, layout: Layout) -> Bytes:
        """Of the fullest rank, which is one of the first stage or of the last."""
        memories = [memory for memory, _ in self._stage_memories(layout)]
        return max(memories, key=total)

    def _stage_memories(self, layout: Layout) -> Iterator[tuple[Bytes, int]]:
        parts, layers = self._of(layout), self.model.num_hidden_layers
        ranks, chunks = layout.pipeline, layout.virtual
        for stage in sorted({0, ranks - 1}):
            blocks = (stage + 1) * layers // ranks - stage * layers // ranks
            costs = parts.stage(blocks, is_first=stage == 0, is_last=stage == ranks - 1)
            passes = warm_up_passes(Place(stage, ranks, chunks)) + 1
            in_flight = min(passes, layout.accumulation * chunks) / chunks
            yield with_outside(stage_peak(costs, in_flight), layout.degrees, self.machine), stage

    def _played(self, layout: Layout) -> tuple[float, Layout]:
        return self._step(layout).total, layout

    def _step(self, layout: Layout) -> StepTime:
        parts, ranks, chunks = self._of(layout), layout.pipeline, layout.virtual
        layers, count = self.model.num_hidden_layers, layout.pipeline * layout.virtual
        stages: list[StageTime] = []
        kinds: dict[tuple[object, ...], StageTime] = {}
        for rank in range(ranks):
            blocks = tuple(
                (part + 1) * layers // count - part * layers // count
                for part in range(rank, count, ranks)
            )
            kind = (blocks, rank == 0, rank == ranks - 1)
            if kind not in kinds:
                kinds[kind] = _composed(parts, *kind)
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
        return self.planner.plan(min(least, key=lambda layout: total(self._memory(layout))))


def _kinds_of_sharding(ranks: int) -> int:
    return sum(1 for _ in with_sharding(_one(ranks)))


@functools.cache
def _one(ranks: int) -> Layout:
    return Layout(1, 1, 1, 1, 1, False, "", 1, ranks, "", 1, 1)


def _pass_seconds(costs: Costs) -> float:
    """Forward and backward, of a micro-batch in the midst of a step."""
    return sum(
        sum(seconds[0].values()) for seconds in (costs.time.forward[0], costs.time.backward[0])
    )


def stage_peak(costs: Costs, in_flight: float) -> Bytes:
    """The peak of a stage that keeps `in_flight` passes at once, by part."""
    peaks: list[Bytes] = []
    for (phase, micro_batch), peak in costs.peaks.items():
        # The last backward pass of a step is alone.
        keeps = phase == "forward" or (phase == "backward" and micro_batch == 0)
        peaks.append(plus(peak, costs.kept, in_flight - 1.0) if keeps else peak)
    return max(peaks, key=total)


def _composed(parts: Parts, blocks: Sequence[int], is_first: bool, is_last: bool) -> StageTime:
    """A stage of these blocks, by chunk."""
    stage = StageTime()
    for chunk, count in enumerate(blocks):
        costs = parts.stage(
            count,
            is_first=is_first and chunk == 0,
            is_last=is_last and chunk == len(blocks) - 1,
        )
        stage.forward[chunk] = costs.time.forward[0]
        stage.backward[chunk] = costs.time.backward[0]
        for part, seconds in costs.time.once.items():
            stage.once[part] += seconds
    return stage
