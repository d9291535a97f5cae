"""The four lines that a run begins with, for `check` too; Paddle is not imported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llm_pretrain.checkpoint.weight_files import open_weights
from llm_pretrain.config import Degrees, RunConfig, describe_degrees, plan_batches
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.data import Sources
from llm_pretrain.data.sources import epochs_text
from llm_pretrain.training.folders import Start

_LONGEST_BLEND = 60


def introduce(
    run: RunConfig,
    *,
    model: ModelConfig | None,
    weights: str | None,
    sources: Sources | None,
    degrees: Degrees | None,
) -> Iterator[str]:
    """A line on each of the four, but for what is None.

    `weights`: as `describe_weights` gives it.
    """
    if model is not None:
        name = run.model.model_name_or_path
        yield f"Model: {model.family}, {model.parameter_count():,} parameters ({name})"
    if weights is not None:
        yield f"Weights: {weights}"
    if sources is not None:
        tokens = 0 if degrees is None else plan_batches(run, degrees).train_tokens
        yield f"Data: {_data(sources, tokens)}"
    if degrees is not None:
        yield f"Layout: {describe_degrees(degrees)}"


def describe_weights(run: RunConfig, start: Start) -> str:
    """Where the values come from that the run begins with.

    Raises:
        ConfigError: they are in files that can't be read.
    """
    if start.checkpoints:
        return f"those of step {start.step} ({start.checkpoints[0]})"
    if run.model.continue_training:
        directory = run.model.model_name_or_path
        return f"{open_weights(Path(directory))} ({directory})"
    return f"random, from seed {run.training.seed}"


def _data(sources: Sources, taken: int) -> str:
    """`taken`: tokens that training takes in all."""
    tokens = f"{sum(file.token_count for file in sources.files):,} tokens"
    name = sources.data.input_dir or ""
    if len(sources.files) > 1:
        tokens += f" in {len(sources.files):,} files"
        # "weight prefix weight prefix …" may be very long.
        name = name if len(name) <= _LONGEST_BLEND else f"{name[: _LONGEST_BLEND - 1]}…"
    in_training = sum(sources.train_tokens)
    if not taken or not in_training:
        return f"{tokens} ({name})"
    epochs = epochs_text(taken / in_training)
    of_files = [
        taken * share / count
        for share, count in zip(sources.shares, sources.train_tokens, strict=True)
        if count
    ]
    low, high = epochs_text(min(of_files)), epochs_text(max(of_files))
    by_file = "" if low == high else f", by file {low} to {high}"
    return f"{tokens}, {in_training:,} to train on: {epochs} epochs{by_file} ({name})"
