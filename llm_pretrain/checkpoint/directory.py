"""Checkpoint directories: their names, which are whole, and how many are kept.

A checkpoint is written under a name that ends in `.writing` and renamed when all of it is on the
disk, so that whatever is named `checkpoint-<step>` is whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from llm_pretrain.checkpoint.checksums import FILE_NAME as CHECKSUMS_FILE
from llm_pretrain.checkpoint.checksums import (
    Checksums,
    DamagedCheckpointError,
    assert_whole,
    join_notes,
)
from llm_pretrain.config import ConfigError
from llm_pretrain.machine.files import flush_file

STATE_FILE = "trainer_state.json"
PROGRAM = "llm_pretrain"
"""What a state file says it is of, since PaddleNLP's have the same name."""
_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoint_path(output_dir: str | Path, step: int) -> Path:
    return Path(output_dir) / f"checkpoint-{step}"


def writing_path(checkpoint: Path) -> Path:
    """Where a checkpoint is written before it is whole."""
    return checkpoint.with_name(checkpoint.name + ".writing")


def checkpoints_in(output_dir: str | Path) -> list[Path]:
    """What is named `checkpoint-<step>` in `output_dir`, whole or not, oldest step first."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def whole_checkpoints(output_dir: str | Path) -> list[Path]:
    """Those of which no file is missing or cut off, oldest step first."""
    return [path for path in checkpoints_in(output_dir) if what_is_missing(path) is None]


def what_is_missing(checkpoint: Path) -> str | None:
    """What makes a checkpoint incomplete, as a sentence; None if nothing does."""
    if not (checkpoint / STATE_FILE).is_file():
        return f"{checkpoint / STATE_FILE} is missing"
    try:
        Checksums(checkpoint).assert_complete()
    except DamagedCheckpointError as error:
        return str(error)
    return None


def step_of(checkpoint: Path) -> int:
    """The step that the name of a whole checkpoint says."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match, checkpoint
    return int(match[1])


def set_aside(checkpoint: Path, why: str) -> Path | None:
    """Rename a checkpoint that no run resumes from any more to `checkpoint-<step>.<why>`.

    Returns:
        The new name; None if another node that shares the disk was the first.
    """
    aside = checkpoint.with_name(f"{checkpoint.name}.{why}")
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.replace(checkpoint, aside)
        return aside
    return None


class Found(NamedTuple):
    """Checkpoints that a run can resume from."""

    checkpoints: list[Path]
    """The newest first; each next one is for the case that those before it are damaged."""
    reason: str
    incomplete: dict[Path, str]
    """Those that were passed over, each with what is missing."""


def find_checkpoints(
    output_dir: str | Path, wanted: str | bool | None, *, overwrite: bool
) -> Found:
    """The checkpoints to resume from, and the reason for the choice.

    Args:
        wanted: one checkpoint; True: the last in `output_dir`, which must hold one; False: none;
            None: the last in `output_dir`, if it holds one.

    Raises:
        ConfigError: there is no such checkpoint.
    """
    if isinstance(wanted, str):
        path = Path(wanted)
        if missing := what_is_missing(path):
            raise ConfigError([refusal_of_named(path, missing)])
        return Found([path], "resume_from_checkpoint names it", {})
    if overwrite or wanted is False:
        key = "overwrite_output_dir is set" if overwrite else "resume_from_checkpoint is false"
        return Found([], key, {})
    whole: list[Path] = []
    incomplete: dict[Path, str] = {}
    for path in reversed(checkpoints_in(output_dir)):
        missing = what_is_missing(path)
        if missing is None:
            whole.append(path)
        elif not whole:
            incomplete[path] = missing
    if whole or incomplete:
        return Found(whole, f"it is the last one in {output_dir}", incomplete)
    if wanted:
        raise ConfigError(
            [
                f"resume_from_checkpoint is true, but {output_dir} holds no checkpoint; leave it "
                "out to start at step 0"
            ]
        )
    return Found([], f"{output_dir} holds no checkpoint", {})


def refusal_of_named(checkpoint: Path, problem: str) -> str:
    """What to tell who named a checkpoint that is not whole."""
    others = [*whole_checkpoints(checkpoint.parent), *whole_checkpoints(checkpoint)]
    for other in reversed(others):
        with contextlib.suppress(DamagedCheckpointError):
            assert_whole(other)
            instead = f"the newest whole one there is {other}"
            break
    else:
        instead = "give a directory named checkpoint-<step>; there is no whole one there"
    return f"resume_from_checkpoint: {checkpoint} is not a whole checkpoint: {problem}; {instead}"


def no_whole_checkpoint(output_dir: str | Path, problems: Iterable[str]) -> str:
    """What to tell who can't resume from any checkpoint."""
    return (
        f"{output_dir} holds no whole checkpoint: {'; '.join(problems)}; put back what is missing, "
        "or set overwrite_output_dir to start anew"
    )


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The contents of `trainer_state.json`.

    Raises:
        DamagedCheckpointError: it is damaged.
        ConfigError: it is not this program's.
    """
    path = checkpoint / STATE_FILE
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(f"{path} can't be read: {error}") from error
    if not isinstance(state, dict) or state.get("program") != PROGRAM:
        raise ConfigError(
            [
                f"{checkpoint} was written by another program (PaddleNLP?) and can't be resumed; "
                "choose another output_dir, or set overwrite_output_dir"
            ]
        )
    checksums = Checksums(checkpoint)
    if "origin" in state and not checksums.files:
        raise DamagedCheckpointError(f"{checkpoint / CHECKSUMS_FILE} is missing")
    checksums.assert_undamaged(path)
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
    join_notes(claimed)
    if checkpoint.exists() and _exchange(claimed, checkpoint):
        shutil.rmtree(claimed, ignore_errors=True)
    else:
        if checkpoint.exists():
            remove(checkpoint)
        os.replace(claimed, checkpoint)
    flush_file(checkpoint.parent)


_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one move, where the file system can (Linux's renameat2)."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    status: int = renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    return status == 0


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that, interrupted, what is left has no checkpoint's name."""
    doomed = checkpoint.with_name(checkpoint.name + ".removing")
    shutil.rmtree(doomed, ignore_errors=True)
    try:
        os.replace(checkpoint, doomed)
    except OSError as error:
        # Another node that shares the disk is at it.
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            raise
    shutil.rmtree(doomed, ignore_errors=True)


def remove_unfinished(output_dir: str | Path) -> None:
    """Remove what runs that were killed have left of checkpoints."""
    for kind in ("writing", "removing", "publishing-*"):
        for path in Path(output_dir).glob(f"checkpoint-*.{kind}"):
            shutil.rmtree(path, ignore_errors=True)


def keep_newest(
    output_dir: str | Path,
    limit: int | None,
    *,
    keep_every: int | None = None,
    spared: Collection[int] = (),
) -> None:
    """Remove the oldest checkpoints beyond `limit`, but neither those of `spared` steps nor, which
    do not count, those of multiples of `keep_every`.

    None or less than 1 keeps all.
    """
    if limit is None or limit < 1:
        return
    passing = [
        path
        for path in whole_checkpoints(output_dir)
        if keep_every is None or step_of(path) % keep_every
    ]
    for path in passing[:-limit]:
        if step_of(path) not in spared:
            remove(path)
