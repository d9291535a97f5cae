"""What a person watching the run sees: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from llm_pretrain.monitor.metrics_log import Metrics

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

BARS = "▁▂▃▄▅▆▇█"

# Label and format of what a line shows, in order; other metrics are for the log and the curves.
SHOWN: tuple[tuple[str, str, str], ...] = (
    ("loss", "loss", "{:.4f}"),
    ("eval_loss", "evaluation loss", "{:.4f}"),
    ("eval_ppl", "perplexity", "{:.2f}"),
    ("test_loss", "test loss", "{:.4f}"),
    ("learning_rate", "rate", "{:.3g}"),
    ("global_norm", "gradient norm", "{:.3f}"),
    ("interval_tokens_per_second_per_device", "tokens/s/device", "{:,.0f}"),
    ("mfu", "MFU", "{:.1%}"),
    ("max_memory_allocated", "memory", "{:,.0f} MiB"),
)


class Console:
    """Shows steps, evaluations and messages on `stream`.

    `live`: a progress bar that moves with every step; the default is to have one where the stream
    is a terminal.
    """

    def __init__(
        self,
        max_steps: int,
        *,
        live: bool | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._max_steps = max_steps
        self._clock = clock
        self._first: tuple[int, float] | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        if self._stream.isatty() if live is None else live:
            self._start_progress()

    def step(self, metrics: Metrics) -> None:
        step = metrics.get("global_step")
        assert isinstance(step, int), "a step has a number"
        left = self._time_left(step)
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task, completed=step, shown=_shown(metrics), left=f"{left} left"
            )
            return
        share = step / self._max_steps if self._max_steps > 0 else 1.0
        self.message(f"step {step}/{self._max_steps} ({share:.1%})  {_shown(metrics)}  {left} left")

    def evaluation(self, metrics: Metrics) -> None:
        step = metrics.get("global_step")
        self.message(f"evaluation after step {step}  {_shown(metrics)}")

    def message(self, text: str) -> None:
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False)
            return
        # The encoding of a terminal or a pipe may be narrower than the text.
        encoding = self._stream.encoding or "utf-8"
        text = text.encode(encoding, errors="replace").decode(encoding)
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _start_progress(self) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[shown]}"),
            TextColumn("{task.fields[left]}", style="dim"),
            console=RichConsole(file=self._stream),
        )
        self._task = self._progress.add_task(
            "", total=max(self._max_steps, 1), shown="waiting for the first step", left=""
        )
        self._progress.start()

    def _time_left(self, step: int) -> str:
        """From the pace since the first step shown: what came before was warm-up."""
        now = self._clock()
        if self._first is None or step <= self._first[0]:
            self._first = (step, now)
            return "?"
        first_step, first_time = self._first
        pace = (now - first_time) / (step - first_step)
        return duration(pace * max(0, self._max_steps - step))


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """A curve in one line of text, at most `width` characters; "" for no values."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [index * len(values) // count for index in range(count + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def _shown(metrics: Metrics) -> str:
    parts = []
    for name, label, form in SHOWN:
        value = metrics.get(name)
        if value is not None and not isinstance(value, str):
            parts.append(f"{label} {form.format(value)}")
    return "  ".join(parts)
