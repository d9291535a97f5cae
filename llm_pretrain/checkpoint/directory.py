"""Checkpoint directories: their names, which are whole, and how many are kept.

A checkpoint is written under a name that ends in `.writing` and renamed when all of it is on the
disk, so that whatever is named `checkpoint-<step>` is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from llm_pretrain.config import ConfigError

STATE_FILE = "trainer_state.json"
PROGRAM = "llm_pretrain"
"""What a state file says it is of, since PaddleNLP's have the same name."""
_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoint_path(output_dir: str | Path, step: int) -> Path:
    return Path(output_dir) / f"checkpoint-{step}"


def writing_path(checkpoint: Path) -> Path:
    """Where a checkpoint is written before it is whole."""
    return checkpoint.with_name(checkpoint.name + ".writing")


def whole_checkpoints(output_dir: str | Path) -> list[Path]:
    """The whole checkpoints of `output_dir`, oldest step first."""
    found = [
        path
        for path in Path(output_dir).glob("checkpoint-*")
        if _NAME.fullmatch(path.name) and (path / STATE_FILE).is_file()
    ]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step that the name of a whole checkpoint says."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match, checkpoint
    return int(match[1])


def set_aside_later(output_dir: str | Path, step: int) -> list[Path]:
    """Rename checkpoints of later steps than a run starts from: they are of an abandoned run.

    Returns:
        Their new names, `checkpoint-<step>.abandoned`.
    """
    renamed = []
    for path in whole_checkpoints(output_dir):
        if step_of(path) > step:
            aside = path.with_name(path.name + ".abandoned")
            shutil.rmtree(aside, ignore_errors=True)
            # Another node that shares the disk may be the first.
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, aside)
                renamed.append(aside)
    return renamed


def find_checkpoint(
    output_dir: str | Path, wanted: str | None, *, overwrite: bool
) -> tuple[Path | None, str]:
    """The checkpoint to resume from, or None, and the reason for the choice.

    Raises:
        ConfigError: `wanted` names no whole checkpoint.
    """
    if wanted:
        path = Path(wanted)
        if not (path / STATE_FILE).is_file():
            raise ConfigError(
                [
                    f"resume_from_checkpoint: {path} is not a whole checkpoint (it has no "
                    f"{STATE_FILE}); give a directory named checkpoint-<step>"
                ]
            )
        return path, "resume_from_checkpoint names it"
    if overwrite:
        return None, "overwrite_output_dir is set"
    checkpoints = whole_checkpoints(output_dir)
    if not checkpoints:
        return None, f"{output_dir} holds no checkpoint"
    return checkpoints[-1], f"it is the last one in {output_dir}"


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The contents of `trainer_state.json`.

    Raises:
        ConfigError: it is damaged, or not this program's.
    """
    path = checkpoint / STATE_FILE
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path} can't be read: {error}"]) from error
    if not isinstance(state, dict) or state.get("program") != PROGRAM:
        raise ConfigError(
            [
                f"{checkpoint} was written by another program (PaddleNLP?) and can't be resumed; "
                "choose another output_dir, or set overwrite_output_dir"
            ]
        )
    return state


def publish(checkpoint: Path, rank: int) -> None:
    """Rename a checkpoint that is written whole to its name.

    Several ranks may call it for one disk: the first to claim it does the work.
    """
    claimed = checkpoint.with_name(f"{checkpoint.name}.publishing-{rank}")
    try:
        os.replace(writing_path(checkpoint), claimed)
    except FileNotFoundError:
        return
    if checkpoint.exists():
        remove(checkpoint)
    os.replace(claimed, checkpoint)
    flush_file(checkpoint.parent)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that, interrupted, what is left has no checkpoint's name."""
    doomed = checkpoint.with_name(checkpoint.name + ".removing")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(checkpoint, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_unfinished(output_dir: str | Path) -> None:
    """Remove what runs that were killed have left of checkpoints."""
    for kind in ("writing", "removing", "publishing-*"):
        for path in Path(output_dir).glob(f"checkpoint-*.{kind}"):
            shutil.rmtree(path, ignore_errors=True)


def keep_newest(output_dir: str | Path, limit: int | None, *, best_step: int | None = None) -> None:
    """Remove the oldest checkpoints beyond `limit`, but not that of `best_step`.

    None or less than 1 keeps all.
    """
    if limit is None or limit < 1:
        return
    best = None if best_step is None else checkpoint_path(output_dir, best_step)
    for path in whole_checkpoints(output_dir)[:-limit]:
        if path != best:
            remove(path)


def flush_file(path: Path) -> None:
    """Have the file's contents on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
