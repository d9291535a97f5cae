"""What a layout takes on a machine: memory of its fullest rank, time of a step, and of the run."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass, replace

from llm_pretrain.config import Degrees, RunConfig, plan_batches
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.config.run_config import evaluation_share, samples_by_length
from llm_pretrain.planning.allocator import replay
from llm_pretrain.planning.layouts import Layout, run_with
from llm_pretrain.planning.machines import Machine
from llm_pretrain.planning.prediction import Program, StageCosts, StagePredictor
from llm_pretrain.planning.profile import Bytes, total
from llm_pretrain.planning.step import StageTime, StepTime, step_time
from llm_pretrain.planning.time import message_seconds, spans_of
from llm_pretrain.planning.trace import Message
from llm_pretrain.training.folders import OPTIMIZER_BYTES

FRAGMENTS = 0.03
"""Of what is allocated, in the gaps of the allocator: with what a search reckons, until the layouts
that it reports are replayed."""
_TOKEN_BYTES = 16
"""A token's id and its label, int64."""


@dataclass(frozen=True)
class Plan:
    """The prediction for one layout.

    Attributes:
        memory: of the fullest rank, bytes by part, at its peak; with "fragments", "context" and
            "group buffers", which Paddle does not count as allocated.
        fullest_stage: of the pipeline, where that rank stands.
        step: time of a step.
        tokens_per_step: of the whole job.
        flops_per_token: as the logged MFU counts them.
        peak: FLOP/s of a device in the dtype of the run's products.
        run_seconds: of all steps, with evaluations.
        checkpoint_bytes: of one, of all ranks together.
        save_seconds: what training waits for each.
    """

    layout: Layout
    memory: Bytes
    fullest_stage: int
    step: StepTime
    tokens_per_step: int
    flops_per_token: int
    peak: float
    run_seconds: float
    checkpoint_bytes: float
    save_seconds: float

    @property
    def devices(self) -> int:
        return self.layout.degrees.world_size

    @property
    def allocated(self) -> float:
        """Bytes, as `max_memory_allocated` counts them."""
        return sum(size for part, size in self.memory.items() if part not in OUTSIDE)

    @property
    def reserved(self) -> float:
        """Bytes, as `max_memory_reserved` counts them."""
        return self.allocated + self.memory["fragments"]

    @property
    def tokens_per_second_per_device(self) -> float:
        return self.tokens_per_step / self.step.total / self.devices

    @property
    def mfu(self) -> float:
        return self.tokens_per_second_per_device * self.flops_per_token / self.peak

    @property
    def days(self) -> float:
        return self.run_seconds / 86400

    @property
    def device_hours(self) -> float:
        return self.run_seconds / 3600 * self.devices


OUTSIDE = ("fragments", "context", "group buffers")
"""Parts of memory that are no tensors."""


def with_outside(memory: Bytes, degrees: Degrees, machine: Machine) -> dict[str, float]:
    """A peak of tensors with what the device holds besides."""
    axes = (degrees.tensor, degrees.pipeline, degrees.sharding, degrees.data, degrees.sequence)
    groups = sum(ranks > 1 for ranks in axes) + (degrees.world_size > 1)
    return {
        **memory,
        "fragments": FRAGMENTS * total(memory),
        "context": machine.context,
        "group buffers": groups * machine.group_buffers,
    }


class Planner:
    """Plans layouts of one run of one program on one machine."""

    def __init__(
        self, run: RunConfig, model: ModelConfig, machine: Machine, program: Program
    ) -> None:
        self.run = run
        self.model = model
        self.machine = machine
        self.program = program
        self._predictor = StagePredictor(run, model, machine, program)
        self.peak = machine.peak(run.training.compute_dtype)
        self.plan = functools.lru_cache(maxsize=None)(self._plan)

    def finish(self, layout: Layout, memory: Bytes, stage: int, step: StepTime) -> Plan:
        """The plan of a layout whose peak of tensors and step are known."""
        run, degrees = run_with(self.run, layout), layout.degrees
        batches = plan_batches(run, degrees)
        size, save = self._checkpoint(degrees)
        training = run.training
        every = training.save_steps if isinstance(training.save_steps, int) else 0
        seconds = step.seconds.copy()
        tokens = layout.micro_batch * layout.accumulation * run.data.max_seq_length
        seconds["input"] += tokens * _TOKEN_BYTES / self.machine.host_bandwidth
        if training.save_strategy == "steps" and every > 0:
            seconds["saves"] += save / every
        step = StepTime(seconds, step.stage)
        return Plan(
            layout=layout,
            memory=with_outside(memory, degrees, self.machine),
            fullest_stage=stage,
            step=step,
            tokens_per_step=batches.tokens_per_step,
            flops_per_token=self.model.flops_per_token(run.data.max_seq_length),
            peak=self.peak,
            run_seconds=self._seconds_of_steps(run, layout, batches.samples_per_step, step)
            / (1.0 - min(evaluation_share(run, batches), 0.99)),
            checkpoint_bytes=size,
            save_seconds=save,
        )

    def _seconds_of_steps(
        self, run: RunConfig, layout: Layout, samples_per_step: int, step: StepTime
    ) -> float:
        """Of all steps of the run: one of a ramp by its samples, and cut into sequences of its
        length."""
        samples: Counter[int] = Counter()
        for length, some in samples_by_length(run, layout.degrees, max(run.training.max_steps, 0)):
            samples[length] += some
        whole, total = run.data.max_seq_length, 0.0
        for length, some in samples.items():
            parts = whole // length
            cut = replace(layout, micro_batch=layout.micro_batch * parts)
            seconds = step.total if parts == 1 else self._of_length(length).plan(cut).step.total
            total += some / samples_per_step * seconds
        return total

    def _of_length(self, length: int) -> Planner:
        """Of the run with samples of another length, and all as long."""
        data = self.run.data.model_copy(update={"max_seq_length": length})
        training = self.run.training.model_copy(update={"length_ramp": None})
        run = replace(self.run, data=data, training=training)
        return Planner(run, self.model, self.machine, self.program)

    def replayed(self, plan: Plan) -> Plan:
        """The plan with the fragments that a replay of its fullest rank's trace leaves, of all
        blocks, in Paddle's allocator.

        Raises:
            OutOfMemoryError: the device has no room for them, even when idle chunks are given
                back.
        """
        memory, machine = plan.memory, self.machine
        room = machine.memory - memory["context"] - memory["group buffers"]
        events = self._predictor.events(plan.layout, plan.fullest_stage)
        peak = replay(events, capacity=int(room))
        gaps = max(float(peak.reserved - peak.allocated), 0.0)
        return replace(plan, memory={**memory, "fragments": gaps})

    def _checkpoint(self, degrees: Degrees) -> tuple[float, float]:
        """Bytes of a checkpoint, and the seconds in which a rank copies its share to the host.

        Writing goes on beside the training (docs/checkpoints.md).
        """
        weight = 4 if self.run.training.weight_dtype == "float32" else 2
        parameters = self.model.parameter_count()
        share = weight / (degrees.tensor * degrees.pipeline)
        share += OPTIMIZER_BYTES / (degrees.tensor * degrees.pipeline * degrees.sharding)
        return parameters * float(
            weight + OPTIMIZER_BYTES
        ), parameters * share / self.machine.host_bandwidth

    def _plan(self, layout: Layout) -> Plan:
        degrees = layout.degrees
        spans = spans_of(
            degrees, self.run.training.hybrid_parallel_topo_order, self.machine.devices_per_node
        )
        kinds: dict[StageKind, StageCosts] = {}
        stages: list[StageTime] = []
        fullest = 0
        # Of stages of one kind the first keeps the most passes, and none computes otherwise.
        for stage in range(degrees.pipeline):
            kind = stage_kind(self.model, degrees, stage)
            if kind not in kinds:
                kinds[kind] = self._predictor.stage(layout, stage)
                if (
                    kinds[kind].memory.bytes
                    > kinds[stage_kind(self.model, degrees, fullest)].memory.bytes
                ):
                    fullest = stage
            stages.append(kinds[kind].time)
        held = kinds[stage_kind(self.model, degrees, fullest)].memory.parts
        sent = max(costs.message for costs in kinds.values())
        message = Message("send", sent, "pipeline", 2)
        step = step_time(
            stages,
            degrees.virtual_pipeline,
            layout.accumulation,
            message_seconds(message, spans["pipeline"], self.machine) if sent else 0.0,
        )
        memory = {str(part): float(size) for part, size in held.items()}
        return self.finish(layout, memory, fullest, step)


StageKind = tuple[tuple[int, ...], bool, bool]
"""What decides on a stage's work: the blocks of its chunks, and whether it has the model's ends."""


def stage_kind(model: ModelConfig, degrees: Degrees, stage: int) -> StageKind:
    ranks, chunks = degrees.pipeline, degrees.virtual_pipeline
    layers, parts = model.num_hidden_layers, ranks * chunks
    blocks = tuple(
        (part + 1) * layers // parts - part * layers // parts for part in range(stage, parts, ranks)
    )
    return blocks, stage == 0, stage == ranks - 1
