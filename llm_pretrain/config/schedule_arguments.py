"""What changes from step to step: the learning rate, by published formulae, batch and lengths."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from llm_pretrain.config.argument_types import Arguments, Integer, Number

Scheduler = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "constant",
    "inverse_sqrt",
    "warmup_stable_decay",
]

Ramp = tuple[tuple[Number, Integer], ...]
"""Numbers, each with the tokens of the run from which on it holds."""


class ScheduleArguments(Arguments):
    """Schedule: how the learning rate, the batch and the length change from step to step."""

    max_steps: Integer = Field(-1, description="Optimizer steps of the whole run; must be given.")
    learning_rate: Number = Field(5e-5, ge=0, description="Highest learning rate.")
    min_learning_rate: Number = Field(1e-5, ge=0, description="Learning rate after the decay.")
    lr_scheduler_type: Scheduler = Field(
        "linear",
        description="Course of the rate after the warm-up. linear, cosine, cosine_with_restarts: "
        "down to min_learning_rate; constant: none; inverse_sqrt: with the root of the step, as "
        "far as min_learning_rate; warmup_stable_decay: constant, and down to min_learning_rate in "
        "the last steps.",
    )
    warmup_steps: Integer = Field(
        0, ge=0, description="Steps of linear rise at the start; 0 lets warmup_ratio say."
    )
    warmup_ratio: Number = Field(
        0.0, ge=0, le=1, description="The same as a share of max_steps; warmup_steps > 0 wins."
    )
    decay_steps: Integer | None = Field(
        None, gt=0, description="Step at which min_learning_rate is reached; by default max_steps."
    )
    num_cycles: Number = Field(
        1, gt=0, description="cosine_with_restarts: how often the rate falls, a whole number."
    )
    decay_type: Literal["linear", "cosine", "1-sqrt"] = Field(
        "linear", description="warmup_stable_decay: the shape of the decay."
    )
    decay_ratio: Number = Field(
        0.1,
        gt=0,
        le=1,
        description="warmup_stable_decay: the share of decay_steps, at their end, in which the "
        "rate falls.",
    )
    decay_from: Integer | None = Field(
        None,
        ge=0,
        description="warmup_stable_decay: the last step of the highest rate, such as that of a "
        "checkpoint which the run goes on from; in place of decay_ratio.",
    )

    batch_ramp: Ramp | None = Field(
        None,
        description="[[tokens, samples], …]: from so many tokens of the run on, a step takes so "
        "many samples over all ranks. The first begins at 0; the last is the batch that the other "
        "keys give.",
    )

    length_ramp: Ramp | None = Field(
        None,
        description="[[tokens, length], …]: from so many tokens of the run on, a step cuts its "
        "samples into sequences of that length, which know nothing of each other. The first begins "
        "at 0; the last is max_seq_length.",
    )

    @field_validator("batch_ramp", "length_ramp")
    @classmethod
    def _rising(cls, ramp: Ramp | None, info: ValidationInfo) -> Ramp | None:
        if ramp is None:
            return None
        begins = [begin for begin, _ in ramp]
        if not ramp or begins[0] != 0 or begins != sorted(set(begins)):
            raise ValueError("the tokens of a ramp rise from 0, as in [[0, 256], [1e9, 1024]]")
        if any(number < 1 for _, number in ramp):
            is_batch = info.field_name == "batch_ramp"
            raise ValueError(
                "a step takes 1 sample or more" if is_batch else "a sequence has 1 token or more"
            )
        return ramp

    @property
    def warmup(self) -> float:
        """Steps of warm-up, a fraction where warmup_ratio × max_steps is one."""
        return float(self.warmup_steps or self.warmup_ratio * self.max_steps)

    @property
    def decay_end(self) -> int:
        """The step at which `min_learning_rate` is reached."""
        return self.decay_steps or self.max_steps

    @property
    def decay_begin(self) -> float:
        """The step after which the rate falls, a fraction where decay_ratio makes it one."""
        if self.lr_scheduler_type != "warmup_stable_decay":
            return self.warmup
        if self.decay_from is not None:
            return float(self.decay_from)
        return self.decay_end * (1 - self.decay_ratio)


def learning_rate_at(step: int, schedule: ScheduleArguments) -> float:
    """Learning rate of optimizer step `step`, counted from 1.

    It rises in a line over the warm-up. linear and cosine are PaddleNLP's schedules, which are
    Megatron's; inverse_sqrt is Megatron's, too: highest · √(warm-up / step), not below the lowest.
    cosine_with_restarts (Loshchilov & Hutter 2017, with cycles of one length) and
    warmup_stable_decay (Hu et al. 2024; 1-sqrt: Hägele et al. 2024) are those of `transformers`,
    with `min_learning_rate` as the floor.
    """
    highest, lowest = schedule.learning_rate, schedule.min_learning_rate
    warmup = schedule.warmup
    if warmup > 0 and step <= warmup:
        return highest * step / warmup
    kind = schedule.lr_scheduler_type
    if kind == "constant":
        return highest
    if kind == "inverse_sqrt":
        return max(highest * math.sqrt(warmup / step), lowest)
    begin, end = schedule.decay_begin, schedule.decay_end
    if step > end:
        return lowest
    if step <= begin:
        return highest
    return lowest + _share(schedule, (step - begin) / (end - begin)) * (highest - lowest)


def batch_at(tokens: int, schedule: ScheduleArguments, full: int) -> int:
    """Samples of the step that begins when so many tokens are consumed, over all ranks.

    Args:
        full: those of a step after the ramp.
    """
    return _at(tokens, schedule.batch_ramp or ((0, full),))


def length_at(tokens: int, schedule: ScheduleArguments, full: int) -> int:
    """Tokens of a sequence in the step that begins when so many tokens are consumed.

    Args:
        full: those of a whole sample, `max_seq_length`.
    """
    return _at(tokens, schedule.length_ramp or ((0, full),))


def _at(tokens: int, ramp: Ramp) -> int:
    return [number for begin, number in ramp if begin <= tokens][-1]


def _share(schedule: ScheduleArguments, progress: float) -> float:
    """What is left, from 1 to 0, when this share (above 0, up to 1) of the decay is over."""
    kind = schedule.lr_scheduler_type
    shape = schedule.decay_type if kind == "warmup_stable_decay" else kind
    if shape == "cosine_with_restarts" and progress < 1:
        progress = schedule.num_cycles * progress % 1
    if shape.startswith("cosine"):
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0 - (math.sqrt(progress) if shape == "1-sqrt" else progress)
