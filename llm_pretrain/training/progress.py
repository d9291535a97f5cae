"""What a run has done so far and since its last report, and the learning rate of each step."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from llm_pretrain.config import TrainingArguments


@dataclass
class Progress:
    """Counted over the whole run, resumed parts included; stored in checkpoints."""

    global_step: int = 0
    consumed_samples: int = 0
    best_metric: float | None = None
    best_step: int | None = None
    skipped_steps: int = 0
    """Steps whose float16 gradient overflowed, so that they changed no weight."""
    evaluated_step: int | None = None
    """The last step that was evaluated."""

    def state(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Progress:
        return cls(
            int(state["global_step"]),
            int(state["consumed_samples"]),
            state["best_metric"],
            state["best_step"],
            # Absent in checkpoints of older versions.
            int(state.get("skipped_steps", 0)),
            state.get("evaluated_step"),
        )


@dataclass
class Interval:
    """Sums over the steps since the last report, or since the start."""

    steps: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    tokens: int = 0
    """Of all devices together."""
    wait_seconds: float = 0.0
    """Of this rank, for data."""

    def add(self, *, loss: float, seconds: float, tokens: int, wait_seconds: float) -> None:
        self.steps += 1
        self.loss += loss
        self.seconds += seconds
        self.tokens += tokens
        self.wait_seconds += wait_seconds


def learning_rate(step: int, training: TrainingArguments) -> float:
    """Learning rate of optimizer step `step`, counted from 1.

    It rises in a line over the warm-up, falls to `min_learning_rate` at `decay_steps` along a
    cosine or a line, and stays there: PaddleNLP's schedules, which are Megatron's.
    """
    highest, lowest = training.learning_rate, training.min_learning_rate
    warm_up = training.warmup
    decay_steps = training.decay_steps or training.max_steps
    if warm_up > 0 and step <= warm_up:
        return highest * step / warm_up
    if step > decay_steps:
        return lowest
    progress = (step - warm_up) / (decay_steps - warm_up)
    if training.lr_scheduler_type == "cosine":
        share = 0.5 * (1.0 + math.cos(math.pi * progress))
    else:
        share = 1.0 - progress
    return lowest + share * (highest - lowest)
