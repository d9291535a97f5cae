"""What can be said of a run's folders before it starts; Paddle is not imported."""

from __future__ import annotations

import os
from pathlib import Path

from llm_pretrain.checkpoint.directory import find_checkpoint, read_state
from llm_pretrain.config import ConfigError, RunConfig


def folder_problems(run: RunConfig) -> list[str]:
    """Why `output_dir` can't be used, or what it holds can't be resumed; [] if all is well."""
    output = Path(run.training.output_dir)
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        return [f"output_dir: {output} cannot be made: {existing} is a file"]
    if not os.access(existing, os.W_OK | os.X_OK):
        return [f"output_dir: {output} cannot be written to: {existing} is read-only for this user"]
    try:
        describe_start(run)
    except ConfigError as error:
        return list(error.problems)
    return []


def describe_start(run: RunConfig) -> str:
    """Where the run would begin, and why.

    Raises:
        ConfigError: the checkpoint that it would resume from can't be.
    """
    training = run.training
    checkpoint, reason = find_checkpoint(
        training.output_dir,
        training.resume_from_checkpoint,
        overwrite=training.overwrite_output_dir,
    )
    if checkpoint is None:
        return f"Training starts at step 0: {reason}."
    step = read_state(checkpoint)["progress"]["global_step"]
    return f"Training resumes at step {step} from {checkpoint}: {reason}."
