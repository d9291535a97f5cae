"""Every layout that a run could have on a number of devices, at the same samples a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from llm_pretrain.config import (
    ConfigError,
    Degrees,
    RunConfig,
    check_layout,
    plan_batches,
    resolve_degrees,
    smallest_world_size,
)
from llm_pretrain.config.cross_checks import cross_checks
from llm_pretrain.config.degrees import ORDERS, axis_sizes, divisors
from llm_pretrain.config.model_config import ModelConfig

SHARDING = ("", "stage1", "stage2", "stage3")
RECOMPUTE = ("", "core_attn", "full_attn", "full")
_LONG = 8192
"""Tokens of a sample from which on its split over ranks is tried, too."""


@dataclass(frozen=True)
class Layout:
    """What a plan decides; all else of a run is its author's."""

    tensor: int
    pipeline: int
    virtual: int
    sep: int
    context: int
    sequence_parallel: bool
    sharding: str
    sharding_degree: int
    data: int
    recompute: str
    micro_batch: int
    accumulation: int

    @cached_property
    def degrees(self) -> Degrees:
        return Degrees(
            data=self.data,
            sharding=self.sharding_degree,
            tensor=self.tensor,
            pipeline=self.pipeline,
            sep=self.sep,
            context=self.context,
            virtual_pipeline=self.virtual,
        )

    @property
    def stage(self) -> int:
        """Of sharding; 0 is none."""
        return SHARDING.index(self.sharding)

    def keys(self) -> dict[str, Any]:
        """The keys of a configuration that has this layout."""
        return {
            "tensor_parallel_degree": self.tensor,
            "pipeline_parallel_degree": self.pipeline,
            "virtual_pp_degree": self.virtual,
            "pipeline_schedule_mode": None,
            "sep_parallel_degree": self.sep,
            "context_parallel_degree": self.context,
            "sequence_parallel": self.sequence_parallel,
            "sharding": self.sharding,
            "sharding_parallel_degree": self.sharding_degree if self.sharding else -1,
            "data_parallel_degree": -1,
            "recompute": bool(self.recompute),
            "recompute_granularity": self.recompute or "full",
            "per_device_train_batch_size": self.micro_batch,
            "gradient_accumulation_steps": self.accumulation,
        }

    def describe(self) -> str:
        """In a line, as `tp4 pp2×2 sd8 stage1 sp, full recompute, 2 × 8`."""
        words = [
            f"{name}{degree}"
            for name, degree in (("dp", self.data), ("tp", self.tensor))
            if degree > 1
        ]
        if self.pipeline > 1:
            times = f"×{self.virtual}" if self.virtual > 1 else ""
            words.append(f"pp{self.pipeline}{times}")
        if self.sharding:
            words.append(f"sd{self.sharding_degree} {self.sharding}")
        words += [f"sep{self.sep}"] if self.sep > 1 else []
        words += [f"cp{self.context}"] if self.context > 1 else []
        words += ["sp"] if self.sequence_parallel else []
        recompute = f"{self.recompute} recompute" if self.recompute else "no recompute"
        batch = f"{self.micro_batch} × {self.accumulation}"
        return f"{' '.join(words) or 'one device'}, {recompute}, batch {batch}"


def layout_of(run: RunConfig, degrees: Degrees) -> Layout:
    """The layout that a configuration asks for itself."""
    training = run.training
    return Layout(
        tensor=degrees.tensor,
        pipeline=degrees.pipeline,
        virtual=degrees.virtual_pipeline,
        sep=degrees.sep,
        context=degrees.context,
        sequence_parallel=training.sequence_parallel,
        sharding=SHARDING[training.sharding_stage] if degrees.sharding > 1 else "",
        sharding_degree=degrees.sharding,
        data=degrees.data,
        recompute=training.recompute_granularity if training.recompute else "",
        micro_batch=training.per_device_train_batch_size,
        accumulation=training.gradient_accumulation_steps,
    )


def run_with(run: RunConfig, layout: Layout) -> RunConfig:
    """The run in another layout. The layout is taken to be legal."""
    return replace(run, training=run.training.model_copy(update=layout.keys()))


def own_layout(run: RunConfig, devices: int) -> tuple[Layout, int]:
    """The layout of the configuration on that many devices, and its samples a step.

    Raises:
        ConfigError: its degrees don't multiply to the devices.
    """
    degrees = resolve_degrees(run.training, devices)
    return layout_of(run, degrees), plan_batches(run, degrees).samples_per_step


def samples_a_step(run: RunConfig, devices: int) -> int:
    """Of the configuration on that many devices, or on the fewest that it can have."""
    try:
        return own_layout(run, devices)[1]
    except ConfigError:
        return own_layout(run, smallest_world_size(run.training))[1]


def stage_rank(degrees: Degrees, order: str, stage: int) -> int:
    """The first rank of a stage of the first pipeline."""
    sizes = axis_sizes(degrees)
    axes = ORDERS[order]
    for axis in axes[axes.index("pipeline") + 1 :]:
        stage *= sizes[axis]
    return stage


class Legality:
    """Whether a run can have a layout, by the checks that its start makes."""

    def __init__(self, run: RunConfig, model: ModelConfig) -> None:
        self.run = run
        self.model = model
        alone = Degrees(1, 1, 1, 1, 1, 1, 1)
        # What is wrong in every layout decides on none.
        self._anyway = {*self._conflicts(run), *check_layout(run, model, alone)}
        self._known: dict[tuple[Any, ...], bool] = {}

    def __call__(self, layout: Layout) -> bool:
        key = (
            layout.tensor,
            layout.pipeline,
            layout.virtual,
            layout.sep,
            layout.context,
            layout.sequence_parallel,
            layout.accumulation % layout.pipeline if layout.virtual > 1 else 0,
            # Every batch of a ramp is split over the data ranks.
            self.run.training.batch_ramp and layout.micro_batch * layout.degrees.dataset,
        )
        if key not in self._known:
            run = run_with(self.run, layout)
            problems = [*self._conflicts(run), *check_layout(run, self.model, layout.degrees)]
            self._known[key] = self._anyway.issuperset(problems)
        return self._known[key]

    def _conflicts(self, run: RunConfig) -> list[str]:
        return [each.sentence for each in cross_checks(run.model, run.data, run.training)]


def frames(run: RunConfig, model: ModelConfig, devices: int, samples: int) -> Iterator[Layout]:
    """The legal layouts on `devices` that take `samples` a step, but for sharding and recompute.

    Samples are split over ranks where they are longer than 8,192 tokens, or the configuration
    splits them itself; virtual stages are those of equal numbers of blocks.
    """
    is_legal = Legality(run, model)
    training = run.training
    splits = run.data.max_seq_length > _LONG or (
        training.sep_parallel_degree > 1 or training.context_parallel_degree > 1
    )
    for tensor in divisors(devices):
        for pipeline in divisors(devices // tensor):
            for sep, context in _splits(devices // tensor // pipeline, splits):
                ranks = devices // tensor // pipeline // sep // context
                for micro_batch in divisors(samples // ranks) if samples % ranks == 0 else ():
                    accumulation = samples // ranks // micro_batch
                    for virtual in _virtual(model, pipeline):
                        for split in (False, True) if tensor > 1 else (False,):
                            frame = Layout(
                                tensor, pipeline, virtual, sep, context, split,
                                "", 1, ranks, "", micro_batch, accumulation,
                            )  # fmt: skip
                            if is_legal(frame):
                                yield frame


def with_sharding(frame: Layout) -> Iterator[Layout]:
    """A frame's data-parallel ranks with every kind and degree of sharding."""
    ranks = frame.data * frame.sharding_degree
    for sharding in SHARDING:
        for degree in divisors(ranks)[1:] if sharding else [1]:
            yield replace(frame, sharding=sharding, sharding_degree=degree, data=ranks // degree)


def _splits(ranks: int, wanted: bool) -> Iterator[tuple[int, int]]:
    yield 1, 1
    if wanted:
        for degree in divisors(ranks)[1:]:
            yield degree, 1
            yield 1, degree


def _virtual(model: ModelConfig, pipeline: int) -> list[int]:
    blocks, left = divmod(model.num_hidden_layers, pipeline)
    return divisors(blocks) if pipeline > 1 and blocks and not left else [1]
