"""Log lines in PaddleNLP's form, for a file or a pipe and the scripts that read it.

    [2026-11-29 10:20:30,123] [    INFO] - loss: 8.1, learning_rate: 1e-05, global_step: 10, …

Scripts find a value by its name or by its place between commas. Names, order and units are
PaddleNLP's, therefore, and what it does not have comes after what it has.
"""

from __future__ import annotations

import re
from datetime import datetime

from llm_pretrain.monitor.metrics_log import Metrics

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
