"""A machine's one fitted number, from the speed that a run has logged."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from llm_pretrain.config import ConfigError, Degrees, RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.planning.layouts import Layout
from llm_pretrain.planning.machines import Machine, to_json
from llm_pretrain.planning.plan import Planner
from llm_pretrain.planning.prediction import Program
from llm_pretrain.planning.report import readable_seconds
from llm_pretrain.planning.trace import Trace

_ROUNDS = 8
_EXACT = 1e-4


def logged_step_seconds(path: str) -> float:
    """The median of the steps' seconds in a `train_log.jsonl`, its first interval left out.

    Raises:
        ConfigError: there is no such file, or it tells of too few steps.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ConfigError([f"--calibrate {path}: {error.strerror}"]) from None
    seconds = []
    for text in lines:
        try:
            line = json.loads(text)
        except ValueError:
            continue  # a line that a crash cut short
        if isinstance(line, dict) and line.get("kind") == "step":
            value = line.get("step_seconds")
            if value is None:
                continue
            if not isinstance(value, float) or not 0.0 < value < math.inf:
                raise ConfigError([f"--calibrate {path}: a step of {value!r:.40} seconds"])
            seconds.append(value)
    if len(seconds) < 2:
        raise ConfigError(
            [f"--calibrate {path}: it needs the lines of two logged steps or more, as training "
             "writes them to train_log.jsonl"]
        )  # fmt: skip
    # The first interval has what is done once: operators are chosen, memory is taken.
    return median(seconds[1:])


class _Remembering:
    """A program of which each trace is made once: it is the same at whatever rates."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._traces: dict[tuple[int, Degrees, int], Trace] = {}

    def trace(
        self, run: RunConfig, model: ModelConfig, degrees: Degrees, rank: int, *, steps: int
    ) -> Trace:
        key = (model.num_hidden_layers, degrees, rank)
        if key not in self._traces:
            self._traces[key] = self.program.trace(run, model, degrees, rank, steps=steps)
        return self._traces[key]


@dataclass(frozen=True)
class Calibration:
    """A machine as a log tells of it; seconds of a step."""

    logged: float
    predicted: float
    """With the machine as it was."""
    sustained: float
    """Of the machine as it was."""
    machine: Machine
    predicted_now: float

    def lines(self) -> list[str]:
        """For a person."""
        return [
            f"logged: {readable_seconds(self.logged)} a step",
            f"predicted: {readable_seconds(self.predicted)}, "
            f"{self.predicted / self.logged - 1.0:+.1%}",
            f"sustained: {self.sustained:.3f} becomes {self.machine.sustained:.3f}, which predicts "
            f"{readable_seconds(self.predicted_now)}",
        ]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "logged_step_seconds": self.logged,
            "predicted_step_seconds": self.predicted,
            "sustained_before": self.sustained,
            "sustained": self.machine.sustained,
            "predicted_step_seconds_now": self.predicted_now,
            "machine": to_json(self.machine),
        }


def calibrated(
    run: RunConfig,
    model: ModelConfig,
    machine: Machine,
    program: Program,
    layout: Layout,
    log: str,
) -> Calibration:
    """The machine on which the layout's step takes as long as was logged.

    Raises:
        ConfigError: no share of the rates makes it so.
    """
    measured = logged_step_seconds(log)
    program = _Remembering(program)

    def seconds(sustained: float) -> float:
        fitted = machine.refitted(sustained, "")
        return Planner(run, model, fitted, program).plan(layout).step.total

    before = seconds(machine.sustained)
    low = high = 1.0 / machine.sustained
    predicted = before
    # A step is nearly a line over the inverse of the share.
    at, slope = high, (seconds(machine.sustained / 2) - before) / low
    for _ in range(_ROUNDS):
        if abs(predicted - measured) <= _EXACT * measured or slope <= 0:
            break
        at += (measured - predicted) / slope
        if at <= 0:
            break
        predicted = seconds(1.0 / at)
    if at <= 0 or abs(predicted - measured) > 0.01 * measured:
        raise ConfigError(
            [
                f"--calibrate {log}: its steps take {readable_seconds(measured)}, and the machine "
                f"would need {readable_seconds(before)} of which products are too little to "
                "explain it; was the log written with this configuration, on so many devices?"
            ]
        )
    sustained = 1.0 / at
    source = (
        f"fitted to {Path(log).name}: {readable_seconds(measured)} a step of {layout.describe()}"
    )
    return Calibration(
        logged=measured,
        predicted=before,
        sustained=machine.sustained,
        machine=machine.refitted(sustained, source),
        predicted_now=predicted,
    )
