"""A run's metrics in Prometheus' text format, at `GET /metrics` of a port (`metrics_port`).

What a line of the log has is a gauge, `llm_pretrain_` and its name there; where the unit is not
that of Prometheus, or not in the name, it is as `GAUGES` says. What only grows is a counter, whose
name ends in `_total`; those of steps, samples and tokens count what this process has done.

Only what runs on the same machine reaches the port, unless an address is given with it: there is no
password, and the page tells where the run writes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

PREFIX = "llm_pretrain_"
PATH = "/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MEBIBYTE = 2.0**20


class Gauge(NamedTuple):
    """A number of the log under its name for Prometheus."""

    name: str
    help: str
    factor: float = 1.0
    """To the unit of the name."""


GAUGES: Mapping[str, Gauge] = {
    "global_step": Gauge("global_step", "The last logged step."),
    "loss": Gauge("loss", "Mean loss of the last interval of steps."),
    "ppl": Gauge("perplexity", "e to the loss."),
    "learning_rate": Gauge("learning_rate", "Learning rate of the last step."),
    "global_norm": Gauge("gradient_norm", "Norm of the last step's gradient, before clipping."),
    "step_seconds": Gauge("step_seconds", "Mean duration of a step."),
    "interval_runtime": Gauge("interval_seconds", "Duration of the last interval's steps."),
    "interval_samples_per_second": Gauge("samples_per_second", "Samples of all devices."),
    "interval_steps_per_second": Gauge("steps_per_second", "Steps in a second."),
    "interval_tokens_per_second_per_device": Gauge(
        "tokens_per_second_per_device", "Tokens of one device."
    ),
    "mfu": Gauge("mfu_ratio", "Model FLOPs utilisation, of 1."),
    "data_wait_share": Gauge("data_wait_ratio", "Of the steps' time, waiting for data on rank 0."),
    "goodput": Gauge("goodput_ratio", "Of the wall time since the first start, steps."),
    "consumed_samples": Gauge("consumed_samples", "Samples that the weights have seen."),
    "loss_scale": Gauge("loss_scale", "Loss scale of float16, of the next step."),
    "skipped_steps": Gauge("skipped_steps", "Steps that changed no weight, over resumes."),
    **{
        name: Gauge(f"{name}_bytes", f"Memory of the first device: {name}.", _MEBIBYTE)
        for name in (
            "current_memory_allocated",
            "current_memory_reserved",
            "max_memory_allocated",
            "max_memory_reserved",
        )
    },
    "eval_loss": Gauge("evaluation_loss", "Loss of the last evaluation."),
    "eval_ppl": Gauge("evaluation_perplexity", "Perplexity of the last evaluation."),
    "eval_runtime": Gauge("evaluation_seconds", "Duration of the last evaluation."),
    "save_seconds": Gauge("save_seconds", "Duration of the last save."),
    "save_blocked_seconds": Gauge("save_blocked_seconds", "Of that, training waited."),
    "save_bytes": Gauge("save_bytes", "Size of the last checkpoint."),
}

COUNTERS: Mapping[str, str] = {
    "steps_total": "Steps taken, those taken again included.",
    "samples_total": "Samples of these steps.",
    "tokens_total": "Tokens of these steps.",
    "skipped_steps_total": "Steps that changed no weight.",
    "saves_total": "Checkpoints written.",
    "failed_saves_total": "Saves that failed.",
    "restarts_total": "Starts of this run before this one.",
    "events_total": "Events that the operator was told of.",
    "wall_seconds_total": "Wall time since the run's first start, by what took it.",
}


class MetricsPage:
    """The numbers, and the text that shows them. Any thread may ask for the text."""

    def __init__(self, run: str, host: str) -> None:
        self._gauges: dict[str, float] = {}
        self._counters: dict[str, dict[str, float]] = {
            name: {} if name in ("events_total", "wall_seconds_total") else {"": 0.0}
            for name in COUNTERS
        }
        self._about = f"run={_quoted(run)},host={_quoted(host)}"

    def set(self, metrics: Mapping[str, Any]) -> None:
        """Take the numbers of a line of the log; what is None or a text is left out."""
        for name, value in metrics.items():
            if isinstance(value, int | float):
                self._gauges[name] = float(value)

    def count(self, name: str, amount: float = 1.0, label: tuple[str, str] | None = None) -> None:
        """Add to a counter."""
        key = "" if label is None else f"{{{label[0]}={_quoted(label[1])}}}"
        values = self._counters[name]
        values[key] = values.get(key, 0.0) + amount

    def count_up_to(self, name: str, values: Mapping[str, float], label: str) -> None:
        """Have a counter's values, by what `label` is; none of them falls."""
        for key, value in values.items():
            shown = f"{{{label}={_quoted(key)}}}"
            self._counters[name][shown] = max(value, self._counters[name].get(shown, 0.0))

    def text(self) -> str:
        """The page in the text exposition format, version 0.0.4."""
        lines = _family("run_info", "gauge", "The run that this is.", {f"{{{self._about}}}": 1.0})
        for name, value in dict(self._gauges).items():
            gauge = GAUGES.get(name) or Gauge(name, f"{name} of train_log.jsonl.")
            lines += _family(gauge.name, "gauge", gauge.help, {"": value * gauge.factor})
        for name, text in COUNTERS.items():
            lines += _family(name, "counter", text, dict(self._counters[name]))
        return "\n".join(lines) + "\n"


def _family(name: str, kind: str, text: str, values: Mapping[str, float]) -> list[str]:
    whole = PREFIX + name
    return [
        f"# HELP {whole} {text}",
        f"# TYPE {whole} {kind}",
        *(f"{whole}{labels} {_number(value)}" for labels, value in values.items()),
    ]


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def _quoted(text: str) -> str:
    text = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{text}"'
