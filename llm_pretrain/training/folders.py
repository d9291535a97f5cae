"""What can be said of a run's folders before it starts; Paddle is not imported."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from llm_pretrain.checkpoint.directory import find_checkpoint, read_state
from llm_pretrain.config import ConfigError, RunConfig
from llm_pretrain.data.build import cache_folders
from llm_pretrain.data.find_data import find_data
from llm_pretrain.training.output_lock import lock_problems


@dataclass(frozen=True)
class Start:
    """Where a run begins, and why there."""

    checkpoint: Path | None
    step: int
    reason: str

    def __str__(self) -> str:
        if self.checkpoint is None:
            return f"Training starts at step 0: {self.reason}."
        return f"Training resumes at step {self.step} from {self.checkpoint}: {self.reason}."


def find_start(run: RunConfig) -> Start:
    """The checkpoint to resume from, if there is one.

    Raises:
        ConfigError: it can't be resumed.
    """
    training = run.training
    checkpoint, reason = find_checkpoint(
        training.output_dir,
        training.resume_from_checkpoint,
        overwrite=training.overwrite_output_dir,
    )
    step = 0 if checkpoint is None else int(read_state(checkpoint)["progress"]["global_step"])
    return Start(checkpoint, step, reason)


def examine_folders(run: RunConfig) -> tuple[Start | None, list[str]]:
    """Where the run would begin, and why it can't: problems of `output_dir` and what it holds."""
    output = Path(run.training.output_dir)
    existing = _nearest_existing(output)
    if not existing.is_dir():
        return None, [f"output_dir: {output} cannot be made: {existing} is a file"]
    if not _is_writable(existing):
        reason = f"{existing} is read-only for this user"
        return None, [f"output_dir: {output} cannot be written to: {reason}"]
    problems = lock_problems(output)
    if problems:
        return None, problems
    try:
        return find_start(run), []
    except ConfigError as error:
        return None, list(error.problems)


def index_cache_problems(run: RunConfig) -> list[str]:
    """Folders that the index of the data would be written to and can't be.

    One that exists already may hold what this run needs, so it is let pass.

    Raises:
        DataError: there is no such data.
    """
    prefixes = find_data(run.data.input_dir).prefixes
    folders = sorted({cache_folders(run.data, prefix)[-1] for prefix in prefixes})
    return [
        f"the index of the data can't be written to {folder}, which is read-only for this user; "
        "set data_cache to a folder that can be written to"
        for folder in folders
        if not folder.exists() and not _is_writable(_nearest_existing(folder))
    ]


def _nearest_existing(path: Path) -> Path:
    """`path` or the nearest of its parents that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)
