"""`run.json` in `output_dir`: all that it takes to know a run, and to do it again."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from llm_pretrain import machine
from llm_pretrain.checkpoint.directory import PROGRAM
from llm_pretrain.config import RunConfig
from llm_pretrain.machine import launchers
from llm_pretrain.machine.files import write_text

FILE_NAME = "run.json"
_PACKAGES = ("llm_pretrain", "llm_pretrain_ops", "paddlepaddle", "paddlepaddle-gpu", "numpy")
_GIT_SECONDS = 5


def write_run_record(
    run: RunConfig,
    origin: Mapping[str, Any],
    *,
    parameters: int,
    operators: Mapping[str, str],
    device: str,
    step: int,
    changes: Sequence[str],
    goodput_seconds: Mapping[str, float],
) -> None:
    """Write the record of the run that starts at `step`; those of earlier starts stay in `starts`.

    Args:
        origin: what makes the run's checkpoints, see `origin_of`.
        operators: what serves each operator.
        device: its name.
        changes: since the checkpoint that the run goes on from.
        goodput_seconds: where the time of all starts has gone so far, see `goodput`.

    Raises:
        OSError: it can't be written.
    """
    path = Path(run.training.output_dir) / FILE_NAME
    start = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "step": step,
        "command": typed_command(),
        "processes": origin["processes"],
        "changes": list(changes),
    }
    record = {
        "program": PROGRAM,
        "command": start["command"],
        "directory": os.getcwd(),
        "git_commit": git_commit(),
        "configuration": {
            key: {"value": value, "source": run.sources[key]} for key, value in run.values().items()
        },
        "model": {**origin["model"], "parameters": parameters},
        "tokenizer": origin["tokenizer"],
        "data": origin["data"],
        "operators": dict(operators),
        "versions": versions(),
        "machine": {
            "host": platform.node(),
            "system": platform.platform(),
            "processor": machine.processor_name(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "device": device,
            "environment": {name: value for name, value, _ in machine.choices()},
        },
        "goodput": _goodput(goodput_seconds),
        "starts": [*_earlier_starts(path), start],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def record_problems(output_dir: str | Path) -> list[str]:
    """Whether the record would take the place of somebody's own file, such as the run's
    configuration, in a sentence. One that is damaged is replaced."""
    path = Path(output_dir) / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if not isinstance(content, dict) or "starts" in content:
        return []
    return [
        f"output_dir: {path} is no record of a run, and the run's record would take its place; "
        "rename it, or choose another output_dir"
    ]


def add_goodput(output_dir: str | Path, seconds: Mapping[str, float]) -> None:
    """Note in the record where the run's time has gone; without a record nothing happens.

    Raises:
        OSError: it can't be written.
    """
    path = Path(output_dir) / FILE_NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["goodput"] = _goodput(seconds)
    except (FileNotFoundError, ValueError, TypeError):
        return
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _goodput(seconds: Mapping[str, float]) -> dict[str, Any]:
    wall = sum(seconds.values())
    return {
        "share": seconds["training"] / wall if wall > 0 else 0.0,
        "wall_seconds": wall,
        "seconds": dict(seconds),
    }


def _earlier_starts(path: Path) -> list[Any]:
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["starts"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def versions() -> dict[str, str]:
    """Of Python and of the packages that a run computes with."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the working directory's repository, with "-dirty" where files are changed."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def typed_command() -> str:
    """The command that started this job, the launcher's where there is one."""
    launcher = launchers.launcher_of_this_process()
    words = list(sys.orig_argv if launcher is None else launcher.command)
    if len(words) > 1 and Path(words[1]).name in ("llm-pretrain", "torchrun"):
        # A script on the PATH, which the interpreter of its first line runs.
        program = Path(words[1]).name
        words[:2] = [program if shutil.which(program) == words[1] else words[1]]
    return shlex.join(words)


def command_to_go_on(run: RunConfig, checkpoint: Path, max_steps: int | None = None) -> str:
    """The command that resumes this run from its last checkpoint, up to `max_steps` if given."""
    words = shlex.split(typed_command())
    is_elsewhere = checkpoint.parent.absolute() != Path(run.training.output_dir).absolute()
    resumed = {
        "overwrite_output_dir": "0",
        "resume_from_checkpoint": str(checkpoint) if is_elsewhere else "true",
    }
    for key, value in resumed.items():
        words = _without(words, key)
        # What the command line says now may be there to overrule the file.
        if run.sources[key] != "default":
            words += [f"--{key}", value]
    if max_steps is not None:
        words = [*_without(words, "max_steps"), "--max_steps", str(max_steps)]
    return shlex.join(words)


def _without(words: Sequence[str], key: str) -> list[str]:
    """The words of a command less those of an option of at most one value."""
    kept: list[str] = []
    is_value = False
    for word in words:
        name, equals, _ = word.replace("-", "_").partition("=")
        if name == f"__{key}":
            is_value = not equals
        elif is_value and not word.startswith("--"):
            is_value = False
        else:
            is_value = False
            kept.append(word)
    return kept
