"""A run as its folder tells of it: what `train_log.jsonl` and `run.json` hold, read once."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from llm_pretrain.config.keys import OF_A_START
from llm_pretrain.monitor.metrics_log import FILE_NAME, named_sets, read_metrics

RECORD_NAME = "run.json"
"""As `training/run_record.py` writes it."""
Point = tuple[float, float]


class NoRunError(ValueError):
    """A folder that holds nothing of a run; the text says which, and what would be right."""


@dataclass(frozen=True)
class History:
    """What is known of a run.

    Args:
        name: what the run is called among those that it is shown with.
        record: the content of run.json; {} where there is none.
        lines: of train_log.jsonl, without those of a past that was abandoned.
        is_running: whether a process has the folder.
    """

    folder: Path
    name: str
    record: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]] = field(repr=False)
    is_running: bool = False

    def of_kind(self, kind: str) -> list[Mapping[str, Any]]:
        """The lines of a kind that name their step, in order."""
        return [
            line
            for line in self.lines
            if line.get("kind") == kind and isinstance(line.get("global_step"), int)
        ]

    @cached_property
    def steps(self) -> list[Mapping[str, Any]]:
        return self.of_kind("step")

    @cached_property
    def evaluations(self) -> list[Mapping[str, Any]]:
        return self.of_kind("evaluation")

    @cached_property
    def validation_sets(self) -> list[str]:
        """The names of `eval_data`, as far as any evaluation has them."""
        return list(dict.fromkeys(name for line in self.evaluations for name in named_sets(line)))

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        """The last start's; {} before the end."""
        last = self.of_kind("summary")
        return last[-1] if last else {}

    @cached_property
    def configuration(self) -> dict[str, tuple[Any, str]]:
        """(value, source) by key."""
        entries = mapping(self.record.get("configuration"))
        return {
            str(key): (entry.get("value"), str(entry.get("source", "")))
            for key, entry in entries.items()
            if isinstance(entry, dict)
        }

    def value(self, key: str) -> Any:
        """Of a key of the configuration; None where it isn't known."""
        return self.configuration.get(key, (None, ""))[0]

    @cached_property
    def starts(self) -> list[Mapping[str, Any]]:
        starts = self.record.get("starts")
        return (
            [start for start in starts if isinstance(start, dict)]
            if isinstance(starts, list)
            else []
        )

    @cached_property
    def goodput_seconds(self) -> dict[str, float]:
        """Where the time of all starts went, in seconds by share; {} where nothing tells."""
        logged = [line for line in self.lines if line.get("kind") == "goodput"]
        found = logged[-1] if logged else mapping(self.record.get("goodput"))
        seconds = mapping(found.get("seconds"))
        return {str(name): took for name, took in seconds.items() if is_number(took) and took >= 0}

    @property
    def last_step(self) -> int:
        """That the log tells of; 0 before the first."""
        logged = [*self.steps[-1:], *self.of_kind("summary")[-1:], *self.of_kind("save")[-1:]]
        return max((line["global_step"] for line in logged), default=0)

    @property
    def state(self) -> str:
        """ "running", "done", "stopped" (by a signal), "failed", "interrupted" (it says of no end)
        or "not begun"."""
        if self.is_running:
            return "running"
        last_run = max((line["run"] for line in self.lines), default=0)
        of_last = [line for line in self.lines if line["run"] == last_run]
        for line in reversed(of_last):
            if line.get("event") == "end":
                return "stopped" if line.get("signal") else "done"
            if line.get("event") == "failure" or line.get("ended_by"):
                return "failed"
            if line.get("final_model"):
                return "done"
        return "interrupted" if self.last_step else "not begun"

    @cached_property
    def best(self) -> tuple[int, float] | None:
        """(step, evaluation loss) of the best evaluation whose checkpoint is still there."""
        found = [
            (line["eval_loss"], line["global_step"])
            for line in self.evaluations
            if is_number(line.get("eval_loss"))
            and (self.folder / f"checkpoint-{line['global_step']}").is_dir()
        ]
        return (min(found)[1], min(found)[0]) if found else None

    @property
    def speed(self) -> float | None:
        """Tokens per second and device of the last start as a whole, or of the last logged interval
        before its end; None where nothing tells."""
        name = "tokens_per_second_per_device"
        # An earlier start's summary says nothing of one that is under way.
        found = self.summary.get(name) if self.state != "running" else None
        if is_number(found):
            return float(found)
        points = self.series(f"interval_{name}")
        return points[-1][1] if points else None

    def tokens_at(self, line: Mapping[str, Any]) -> float | None:
        """That the run had consumed when the line was written; None where it isn't known."""
        length, samples = self.value("max_seq_length"), line.get("consumed_samples")
        return samples * length if is_number(length) and is_number(samples) else None

    def series(self, name: str, lines: Sequence[Mapping[str, Any]] | None = None) -> list[Point]:
        """(global_step, value) of a metric; NaN where it was not finite, so that a curve breaks."""
        points = []
        for line in self.steps if lines is None else lines:
            if name in line:
                value = line[name]
                points.append((line["global_step"], value if is_number(value) else math.nan))
        return points if any(math.isfinite(value) for _, value in points) else []


def read_history(folder: str | Path, name: str = "", *, is_running: bool = False) -> History:
    """Read a run.

    Raises:
        NoRunError: nothing of a run is there.
        OSError: a file can't be read.
    """
    path = Path(folder)
    if not path.is_dir():
        raise NoRunError(f"{folder} is no folder; name the output_dir of a run")
    if not is_run(path):
        raise NoRunError(f"{folder} holds neither {FILE_NAME} nor {RECORD_NAME}: it is no run's")
    return History(path, name or path.name, _record(path), read_metrics(path), is_running)


def is_run(folder: Path) -> bool:
    """A configuration may be called run.json, too: that alone makes no run."""
    return (folder / FILE_NAME).is_file() or _is_record(folder / RECORD_NAME)


def _is_record(path: Path) -> bool:
    try:
        return path.is_file() and "starts" in mapping(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return True  # who reads it says what is the matter


def find_runs(folder: str | Path) -> Iterator[Path]:
    """The folders of runs in and below a folder, in the order of their names."""
    for found, inner, _ in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith(("checkpoint-", ".")))
        if is_run(Path(found)):
            yield Path(found)


def differing_names(folders: Sequence[str | Path]) -> list[str]:
    """The folders' names without what all of them share at either end."""
    names = [list(Path(folder).absolute().parts) for folder in folders]
    if len(names) == 1:
        return [names[0][-1]]
    for end in (0, -1):
        while all(names) and len({name[end] for name in names}) == 1:
            for name in names:
                del name[end]
    return ["/".join(name) or str(folder) for name, folder in zip(names, folders, strict=True)]


def differences(histories: Sequence[History]) -> dict[str, list[Any]]:
    """The keys whose values are not the same in all runs, with each run's value.

    Keys that only some of the runs know, and those that say where a run writes, are left out.
    """
    known = [history.configuration for history in histories if history.configuration]
    if not known:
        return {}
    common = [key for key in known[0] if all(key in other for other in known)]
    rows = {key: [history.value(key) for history in histories] for key in common}
    return {
        key: values
        for key, values in rows.items()
        if key not in OF_A_START and len({shown_value(entry[key][0]) for entry in known}) > 1
    }


def shown_value(value: Any) -> str:
    """A value of a configuration as one writes it in a file."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def mapping(value: Any) -> Mapping[str, Any]:
    """What a damaged file may hold in place of an object counts as an empty one."""
    return value if isinstance(value, dict) else {}


def is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _record(folder: Path) -> Mapping[str, Any]:
    try:
        return mapping(json.loads((folder / RECORD_NAME).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}
