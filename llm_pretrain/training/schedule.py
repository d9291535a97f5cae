"""The learning rate of each step."""

from __future__ import annotations

import math

from llm_pretrain.config import TrainingArguments


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
