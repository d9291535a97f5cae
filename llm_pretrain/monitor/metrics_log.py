"""`train_log.jsonl`: one JSON object a line, for programs to read.

The file is only ever appended to, so that an interrupted run loses nothing. Each line has:

- `run`: 1 for the first run in this directory, one more after every restart or resume;
- `kind`: "step", "evaluation", "save", "sample", "operators", "event", "goodput" or "summary";
- `time`: seconds since 1970;
- the metrics, in full precision. JSON has no NaN or infinity: such a value is null, and
  `not_finite` maps its name to "nan", "inf" or "-inf".

A step's line describes the steps since the one before it, its interval:

- `loss` (their mean), `ppl` (e to that), `learning_rate` and `global_norm` (of the last step);
- `step_seconds` (their mean), `interval_runtime` (s, their sum), `interval_samples_per_second`,
  `interval_steps_per_second`, `interval_tokens_per_second_per_device`, `mfu`;
- `data_wait_share`: of that time, what rank 0 waited for data;
- `max_memory_allocated` (MiB; on a GPU also `current_memory_allocated`,
  `current_memory_reserved` and `max_memory_reserved`), `consumed_samples`;
- `goodput`: of the wall time since the run's first start, what went into steps;
- with several processes `slowest_rank`, `slowest_rank_seconds` and `median_rank_seconds`: what the
  ranks computed in the step before without waiting for others; `waiting_share`: of that step, what
  rank 0 waited for others;
- in float16 `loss_scale` (the next step's) and, once there are any, `skipped_steps`: steps that
  changed no weight (they overflowed in float16, or `on_spike` and `on_nan` skipped them), since the
  run's beginning and over resumes.

An evaluation's line has `eval_loss`, `eval_ppl` and, where the tokenizer tells what each token
stands for, `eval_bits_per_byte` (the ends of documents are predicted, too, and no bytes are
theirs), of the set NAME of `eval_data`
`eval_NAME_loss` and `eval_NAME_ppl`; `eval_loss` is the mean of the sets' losses then.

A sample's line is what the model lets follow a `prompt` of the run's `sample_prompts`: its `text`.

An event's line has its kind in `event`, a `message` for a person, and its figures:

- "spike" and "not_finite", of a step: what was done about it (`action`: "apply", "skip" or
  "rewind"), `loss` with `loss_mean` and `loss_deviations` (the mean that it is compared with, and
  how many deviations it lies above that), `gradient_norm`, `norm_mean` and `norm_deviations`
  likewise, and the samples of the step, from `first_sample` to `last_sample`;
- "rewind": the run has gone back to the weights of the step `rewound_to`, and passes over the steps
  from there to `global_step`. `read_metrics` leaves out what was logged of them before, but for
  events.

An event's line (`event`, `message`, and its own values) is what `alerts` told; a goodput's line is
where the time of all runs went, for `training/goodput.py`.

A line of "rewind" says that the run goes back from `global_step` to step `rewound_to`.

A run that resumes at an earlier step than its predecessor reached, or goes back, writes those steps
again. The lines from that step on that came before then describe a past that was abandoned:
`read_metrics` leaves them out.

For a file or a pipe, and the scripts that read it, the same metrics are lines in PaddleNLP's form:

    [2026-11-29 10:20:30,123] [    INFO] - loss: 8.1, learning_rate: 1e-05, global_step: 10, …

Scripts find a value by its name or by its place between commas. Names, order and units are
PaddleNLP's, therefore, and what it does not have comes after what it has.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

Metrics = Mapping[str, "float | int | str | None"]

FILE_NAME = "train_log.jsonl"
_OF_STEPS = {"step", "evaluation", "save", "sample"}
"""Kinds of lines that are void when the run goes back before them."""


class MetricsLog:
    """Appends lines to `directory`/train_log.jsonl, each on disk before the call returns.

    Raises OSError where the file can't be written.
    """

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory) / FILE_NAME
        self.path.parent.mkdir(parents=True, exist_ok=True)
        earlier = _lines(self.path)
        self.earlier_runs = max((line["run"] for line in earlier), default=0)
        self._run = 1 + self.earlier_runs
        self.last_goodput = next(
            (line for line in reversed(earlier) if line.get("kind") == "goodput"), None
        )
        """The last record of earlier runs' time."""
        unfinished = self.path.exists() and not _ends_in_newline(self.path)
        self._file = self.path.open("a", encoding="utf-8")
        if unfinished:
            self._file.write("\n")

    def write(self, kind: str, metrics: Mapping[str, Any]) -> None:
        line: dict[str, Any] = {"run": self._run, "kind": kind, "time": time.time()}
        not_finite: dict[str, str] = {}
        for name, value in metrics.items():
            line[name] = _plain(value)
            if isinstance(line[name], float) and not math.isfinite(line[name]):
                not_finite[name] = str(line[name])
                line[name] = None
        if not_finite:
            line["not_finite"] = not_finite
        self._file.write(json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        # What a full disk refused is still in the buffer, and is refused again here.
        with contextlib.suppress(OSError):
            self._file.close()


def read_metrics(directory: str | Path) -> list[dict[str, Any]]:
    """The lines that describe the run as it stands, in order; [] where there is no file.

    Left out: lines that a later run wrote again (of step s, where that run began at s or
    before), those of steps that the run went back from, and a line cut short by a crash.
    """
    kept: list[dict[str, Any]] = []
    current_run = 0
    for line in _lines(Path(directory) / FILE_NAME):
        step = line.get("global_step")
        run = line.get("run", 0)
        # An event may tell of a step before the run's first, such as the one it goes on from.
        if run > current_run and step is not None and line.get("kind") != "event":
            current_run = run
            kept = [
                earlier
                for earlier in kept
                if earlier["run"] == run or earlier.get("global_step", -1) < step
            ]
        if (back := line.get("rewound_to")) is not None:
            kept = [
                earlier
                for earlier in kept
                if earlier["kind"] not in _OF_STEPS or earlier.get("global_step", -1) <= back
            ]
        kept.append(line)
    return kept


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("run"), int):
            lines.append(line)
    return lines


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return file.read(1) in (b"\n", b"")


def _plain(value: Any) -> Any:
    """Python's own number for a NumPy scalar or a tensor of one element."""
    if value is None or isinstance(value, str | int | float | list | dict):
        return value
    plain = value.item()
    assert isinstance(plain, int | float), f"a metric is a number, not {plain!r}"
    return plain


GPU_MEMORY = (
    "current_memory_allocated",
    "current_memory_reserved",
    "max_memory_allocated",
    "max_memory_reserved",
)
"""MiB in metrics, GiB in these lines."""

STEP_FIELDS = (
    "loss",
    "learning_rate",
    "global_step",
    *GPU_MEMORY,
    "interval_runtime",
    "interval_samples_per_second",
    "interval_tokens_per_second_per_device",
    "interval_steps_per_second",
    "cpu_mem_used_peak",
    "ppl",
    "global_norm",
    "mfu",
    "loss_scale",
    "skipped_steps",
    "progress_or_epoch",
    "progress",
    "time_left",
)
"""What a step's line holds, in order, where it is known."""


def step_line(metrics: Metrics, max_steps: int, time_left: str) -> str:
    """The line of a logged step of `max_steps`."""
    shown = dict(metrics)
    if "current_memory_allocated" in shown:
        for name in GPU_MEMORY:
            shown[name] = _number(metrics, name) / 1024
    elif "max_memory_allocated" in shown:
        # PaddleNLP's name for a process's own peak, in MiB.
        shown["cpu_mem_used_peak"] = shown.pop("max_memory_allocated")
    step = _number(metrics, "global_step")
    share = step / max(max_steps, 1)
    shown["progress_or_epoch"] = round(share, 4)
    shown["progress"] = f"{step}/{max_steps} ({share:.1%})"
    shown["time_left"] = time_left
    return _line({name: shown.get(name) for name in STEP_FIELDS})


def named_sets(metrics: Mapping[str, Any]) -> list[str]:
    """The validation sets of `eval_data` whose losses an evaluation has, in their order."""
    found = (re.fullmatch("eval_(.+)_loss", name) for name in metrics)
    return [match[1] for match in found if match]


def evaluation_line(metrics: Metrics) -> str:
    """The line of an evaluation; the step is named first, lest it pass for a step's line."""
    return _line(metrics)


def read_line(line: str) -> dict[str, float | int | str] | None:
    """The metrics of a step's or an evaluation's line; None for any other text."""
    match = re.match(r"\[[^]]*\] \[ +INFO\] - (.*)", line)
    if match is None:
        return None
    fields: dict[str, float | int | str] = {}
    for name, value in re.findall(r"(\w+): ([^,]+)", match[1]):
        kind = float if name not in ("global_step", "skipped_steps") else int
        try:
            fields[name] = kind(value)
        except ValueError:
            fields[name] = value
    if not isinstance(fields.get("global_step"), int):
        return None
    for name in GPU_MEMORY:
        if name in fields:
            fields[name] = float(fields[name]) * 1024
    if "cpu_mem_used_peak" in fields:
        fields["max_memory_allocated"] = fields.pop("cpu_mem_used_peak")
    return fields


def _line(fields: Metrics) -> str:
    now = datetime.now().isoformat(" ", "milliseconds").replace(".", ",")
    values = (
        f"{name}: {_shown(name, value)}" for name, value in fields.items() if value is not None
    )
    return f"[{now}] [    INFO] - {', '.join(values)}"


def _shown(name: str, value: float | int | str) -> float | int | str:
    if not isinstance(value, float):
        return value
    if name == "learning_rate":
        return float(f"{value:.3e}")
    return round(value, 8 if name.endswith(("loss", "norm")) else 4)


def _number(metrics: Metrics, name: str) -> float | int:
    value = metrics[name]
    assert isinstance(value, int | float), f"{name} is a number"
    return value
