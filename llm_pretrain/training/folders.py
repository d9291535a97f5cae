"""A run's folders: where it begins, what is in the way, and a lock; Paddle is not imported.

The lock keeps other jobs out of `output_dir`; the system drops it when its process ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_pretrain.checkpoint.checksums import DamagedCheckpointError, assert_whole
from llm_pretrain.checkpoint.directory import (
    Found,
    checkpoints_in,
    find_checkpoints,
    no_whole_checkpoint,
    read_state,
    refusal_of_named,
    step_of,
    whole_checkpoints,
)
from llm_pretrain.checkpoint.weight_files import open_weights
from llm_pretrain.config import ConfigError, RunConfig, TrainingArguments
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.data import Sources
from llm_pretrain.data.build import cache_folders
from llm_pretrain.monitor.reporter import readable_size
from llm_pretrain.parallel.comm import epochs
from llm_pretrain.training.origin import changes, late_decay, model_differences
from llm_pretrain.training.run_record import record_problems


@dataclass(frozen=True)
class Start:
    """Where a run begins, and why there."""

    checkpoints: tuple[Path, ...]
    """To resume from, the newest first: each next one if those before it are damaged."""
    step: int
    reason: str
    incomplete: Mapping[Path, str] = field(default_factory=dict)
    """Newer checkpoints that are passed over, each with what it lacks."""
    max_steps: int = 0
    """Of the run that would train from here; 0 if it doesn't train."""

    @property
    def is_beyond_the_end(self) -> bool:
        return self.step > self.max_steps > 0

    def lines(self) -> list[str]:
        """What to tell the user."""
        said = [
            f"{problem}: that checkpoint is passed over." for problem in self.incomplete.values()
        ]
        if not self.checkpoints:
            return [*said, f"Training starts at step 0: {self.reason}."]
        checkpoint = self.checkpoints[0]
        if self.is_beyond_the_end:
            return [
                *said,
                f"{checkpoint} is beyond max_steps {self.max_steps}: there is nothing to do, and "
                f"nothing is changed in its folder. To go on, set max_steps above {self.step}; to "
                "start anew, set overwrite_output_dir.",
            ]
        if self.step == self.max_steps:
            return [*said, f"{checkpoint} is at max_steps {self.step} already: training is done."]
        return [*said, f"Training resumes at step {self.step} from {checkpoint}: {self.reason}."]


def assert_same_model(start: Start, model: ModelConfig) -> None:
    """A run goes on with the model of its checkpoint.

    Raises:
        ConfigError: lists each difference.
    """
    if not start.checkpoints:
        return
    checkpoint = start.checkpoints[0]
    differences = model_differences(checkpoint, read_state(checkpoint), model)
    if differences:
        raise ConfigError(
            [
                f"{checkpoint} is of another model: {'; '.join(differences)}. Give the run the "
                "checkpoint's model, or another output_dir; overwrite_output_dir starts anew, and "
                f"continue_training with model_name_or_path {checkpoint} from its weights"
            ]
        )


def describe_start(start: Start, now: Mapping[str, Any] | None) -> list[str]:
    """What `check` says of a start; `now` is the origin of the run, if it is known."""
    lines = start.lines()
    if now is not None and start.checkpoints and not start.is_beyond_the_end:
        before = read_state(start.checkpoints[0]).get("origin", {})
        lines += [f"Changed since then: {line}" for line in changes(before, now)]
    return lines


def verify_checkpoints(run: RunConfig) -> tuple[list[str], dict[Path, str]]:
    """Read every checkpoint that the run could resume from: lines on the whole, and the damaged
    ones, each with what is wrong with it."""
    wanted = run.training.resume_from_checkpoint
    checkpoints = (
        [Path(wanted)] if isinstance(wanted, str) else checkpoints_in(run.training.output_dir)
    )
    lines, damaged = [], {}
    for checkpoint in checkpoints:
        try:
            read_state(checkpoint)
            checksums = assert_whole(checkpoint)
        except ConfigError as error:
            damaged[checkpoint] = f"{checkpoint} is not whole: {'; '.join(error.problems)}"
            continue
        lines.append(
            f"{checkpoint} is whole: {len(checksums.files)} files, {checksums.size:,} bytes"
            if checksums.files
            else f"{checkpoint} has no checksums: an earlier version of this program wrote it"
        )
    return lines or ["there is no checkpoint"], damaged


def find_start(run: RunConfig, known_damage: Mapping[Path, str] | None = None) -> Start:
    """The checkpoints to resume from, if there are any.

    Args:
        known_damage: what reading them whole has found, as `verify_checkpoints` gives it.

    Raises:
        ConfigError: there is none that can be resumed where there must be.
    """
    training = run.training
    found = find_checkpoints(
        training.output_dir,
        training.resume_from_checkpoint,
        overwrite=training.overwrite_output_dir,
    )
    found = _own_first(run, found)
    step, damaged, whole = 0, dict(found.incomplete), list(found.checkpoints)
    while whole:
        try:
            if known_damage and whole[0] in known_damage:
                raise DamagedCheckpointError(known_damage[whole[0]])
            step = int(read_state(whole[0])["progress"]["global_step"])
            break
        except DamagedCheckpointError as error:
            if isinstance(training.resume_from_checkpoint, str):
                raise ConfigError([refusal_of_named(whole[0], str(error))]) from None
            damaged[whole.pop(0)] = str(error)
    if damaged and not whole:
        raise ConfigError([no_whole_checkpoint(training.output_dir, damaged.values())])
    max_steps = training.max_steps if training.do_train else 0
    return Start(tuple(whole), step, found.reason, damaged, max_steps)


def _own_first(run: RunConfig, found: Found) -> Found:
    """What this job has saved itself comes before where it was told to begin."""
    began_at = epochs.began_at()
    wanted = run.training.resume_from_checkpoint
    if began_at is None or not (
        run.training.overwrite_output_dir or wanted is False or isinstance(wanted, str)
    ):
        return found
    saved = reversed(whole_checkpoints(run.training.output_dir))
    own = [path for path in saved if step_of(path) > began_at]
    reason = "this job has saved it" if own else found.reason
    return Found([*own, *found.checkpoints], reason, found.incomplete)


def examine_folders(
    run: RunConfig, known_damage: Mapping[Path, str] | None = None
) -> tuple[Start | None, list[str]]:
    """Where the run would begin, and why it can't: problems of `output_dir` and what it holds.

    `known_damage`: as for `find_start`.
    """
    output = Path(run.training.output_dir)
    existing = _nearest_existing(output)
    if not existing.is_dir():
        return None, [f"output_dir: {output} cannot be made: {existing} is a file"]
    if not _is_writable(existing):
        reason = f"{existing} is read-only for this user"
        return None, [f"output_dir: {output} cannot be written to: {reason}"]
    # In a later epoch the folder is this job's; a rank of the one before may not have left it yet.
    problems = lock_problems(output) if epochs.number() <= 1 else []
    problems += record_problems(output)
    if problems:
        return None, problems
    try:
        start = find_start(run, known_damage)
    except ConfigError as error:
        return None, list(error.problems)
    for checkpoint in start.checkpoints[:1]:
        problems += late_decay(run, checkpoint, read_state(checkpoint))
    return start, problems


OPTIMIZER_BYTES = 12
"""For each parameter: master weight and two moments in float32."""


def describe_saves(run: RunConfig, model: ModelConfig) -> tuple[list[str], list[str]]:
    """What the run's checkpoints will take on the disk, in sentences, and what is the matter."""
    training = run.training
    if not training.do_train or training.max_steps <= 0:
        return [], []
    weights = 4 if training.weight_dtype == "float32" else 2
    size = model.parameter_count() * (weights + OPTIMIZER_BYTES)
    limit = training.save_total_limit if (training.save_total_limit or 0) > 0 else None
    steps, milestones = _saved_steps(training)
    passing = None if steps is None else steps - milestones
    kept = passing if limit is None else limit if passing is None else min(limit, passing)
    each = f"one checkpoint takes about {readable_size(size)}"
    if kept is None:
        return [f"{each}; all are kept (save_total_limit), however many there will be"], [
            "save_steps: auto with save_total_limit 0 can fill a disk: set a limit"
        ]
    # The next one is written before the oldest is removed.
    count = kept + milestones + (0 if limit is None or passing == kept else 1)
    why = "all are kept" if limit is None else f"save_total_limit {limit}"
    if milestones:
        why += f", and {milestones} of multiples of keep_every {training.keep_every}"
    total = count * size
    lines = [f"{each}, the {count} there may be at a time {readable_size(total)} ({why})"]
    place = _nearest_existing(Path(training.output_dir))
    free = shutil.disk_usage(place).free
    if total <= free:
        return lines, []
    return lines, [
        f"the checkpoints will take {readable_size(total)} and {place} has {readable_size(free)} "
        "free: set save_total_limit lower or save_steps higher, or choose another output_dir"
    ]


def _saved_steps(training: TrainingArguments) -> tuple[int | None, int]:
    """Of how many steps there will be a checkpoint, as far as that is known, and of how many of
    them for ever."""
    if training.save_strategy != "steps":
        return 1, 0  # the last one, or where a signal ends the run
    last, every = training.max_steps, training.keep_every
    milestones = set(range(every, last + 1, every)) if every else set()
    if training.save_steps == "auto" or training.save_minutes is not None:
        return None, len(milestones)
    steps = {*range(training.save_steps, last + 1, training.save_steps), *milestones, last}
    return len(steps), len(milestones)


def index_cache_problems(sources: Sources) -> list[str]:
    """Folders that the index of the data would be written to and can't be.

    One that exists already may hold what this run needs, so it is let pass.
    """
    prefixes = sources.inputs.prefixes
    folders = sorted({cache_folders(sources.data, prefix)[-1] for prefix in prefixes})
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


_LOCK = ".lock"
# `check` looks at the lock for a moment.
_LOCK_PATIENCE_SECONDS = 1.0


def lock_problems(output_dir: str | Path) -> list[str]:
    """Whether another job has the folder, in a sentence; nothing is written."""
    try:
        with (Path(output_dir) / _LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return [_taken(output_dir)]
    except OSError:  # no lock yet, or a file system without locks
        pass
    return []


@contextmanager
def locked_output(output_dir: str | Path, *, is_first_of_job: bool) -> Iterator[None]:
    """Hold the folder within the block; the first process of each node calls it.

    Nodes may share the folder: there the first process of the job holds it for all.

    Raises:
        ConfigError: another job holds it.
        OSError: the lock's file can't be written.
    """
    path = Path(output_dir) / _LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        is_held = _acquire(file.fileno())
        if not is_held and is_first_of_job:
            raise ConfigError([_taken(output_dir)])
        if is_held:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield


def _acquire(descriptor: int) -> bool:
    deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        except OSError:  # a file system without locks
            return True


def _taken(output_dir: str | Path) -> str:
    try:
        holder = (Path(output_dir) / _LOCK).read_text(encoding="utf-8", errors="replace")
    except OSError:
        holder = ""
    return (
        f"output_dir: {output_dir} is in use by another job ({holder or 'its number is unknown'}); "
        "wait until it has ended, end it, or choose another output_dir"
    )


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
