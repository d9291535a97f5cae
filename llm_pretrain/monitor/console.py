"""What a person watching the run sees: a live line on a terminal, PaddleNLP's lines elsewhere.

The live line always fits the terminal. It keeps the first four of these, and of the others as many
as there is room for, so that the last of the list is the first to go:

    step of all steps · share done · time left · loss ·
    steps skipped (float16) · tokens/s/device · rate · gradient norm · MFU · memory · loss scale

What a line leaves out is in `train_log.jsonl`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from llm_pretrain.machine import launchers
from llm_pretrain.machine.language import translated
from llm_pretrain.machine.terminal import columns_of
from llm_pretrain.monitor.metrics_log import Metrics, evaluation_line, named_sets, step_line

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.live import Live
    from rich.text import Text

BARS = "▁▂▃▄▅▆▇█"

# How a terminal's line says what it has room for, in the order of the docstring.
WHERE_THERE_IS_ROOM: tuple[tuple[str, str], ...] = (
    ("skipped_steps", "{} skipped"),
    ("interval_tokens_per_second_per_device", "{:,.0f} tokens/s/device"),
    ("learning_rate", "rate {:.3g}"),
    ("global_norm", "gradient norm {:.3f}"),
    ("mfu", "MFU {:.1%}"),
    ("max_memory_allocated", "memory {:,.0f} MiB"),
    ("loss_scale", "loss scale {:g}"),
)


class Console:
    """Shows steps, evaluations and messages on `stream`.

    On a terminal the last line moves with every step, and logged steps, evaluations and messages
    scroll above it; without `live` they are all there is. The cursor stays visible throughout: a
    run that is killed leaves a sound terminal.
    """

    def __init__(
        self,
        max_steps: int,
        *,
        live: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._max_steps = max_steps
        self._clock = clock
        self._first: tuple[int, float] | None = None
        self._terminal: RichConsole | None = None
        self._live: Live | None = None
        self._launchers: TextIO | None = None
        self._shown: Metrics = {}
        self._logged: Metrics | None = None
        """A logged step that the live line still shows, and that has not scrolled yet."""
        if self._stream.isatty():
            self._open_terminal(live=live)

    @property
    def width(self) -> int:
        """Characters of a line: a terminal's, or what reads well in a file."""
        return self._terminal.width if self._terminal is not None else 100

    def progressed(self, step: int, loss: float) -> None:
        """A step that need not be logged."""
        left = self._time_left(step)
        if self._live is not None:
            self._move({**self._shown, "global_step": step, "loss": loss, "time_left": left})

    def step(self, metrics: Metrics) -> None:
        """A logged step."""
        step = metrics.get("global_step")
        assert isinstance(step, int), "a step has a number"
        left = self._time_left(step)
        if self._terminal is None:
            self.message(step_line(metrics, self._max_steps, left))
            return
        shown = {**metrics, "time_left": left}
        if self._live is None:
            self._print(self._fitted(shown))
            return
        self._move(shown)
        self._logged = shown

    def evaluation(self, metrics: Metrics) -> None:
        if self._terminal is None:
            self.message(evaluation_line(metrics))
            return
        name, prefix = ("test", "test_") if "test_loss" in metrics else ("evaluation", "eval_")
        shown = _filled(
            (
                (f"{prefix}loss", "loss {:.4f}"),
                (f"{prefix}ppl", "perplexity {:.2f}"),
                (f"{prefix}bits_per_byte", "bits per byte {:.4f}"),
            ),
            metrics,
        )
        for named in named_sets(metrics):
            loss, perplexity = metrics[f"eval_{named}_loss"], metrics[f"eval_{named}_ppl"]
            shown.append(f"{named} {loss:.4f} ({perplexity:.2f})")
        head = translated(f"{name} after step {metrics['global_step']}")
        self.message(filled_lines([head, *shown], self.width))

    def message(self, text: str, *, wrap: bool = True) -> None:
        """Any text; without `wrap` a line may be wider than a terminal, which then breaks it."""
        if self._terminal is not None:
            self._scroll()
            self._print(text, wrap=wrap)
            return
        # The encoding of a file or a pipe may be narrower than the text.
        encoding = self._stream.encoding or "utf-8"
        text = text.encode(encoding, errors="replace").decode(encoding)
        print(text, file=self._stream, flush=True)
        if self._launchers is not None:
            with contextlib.suppress(OSError):
                print(text, file=self._launchers, flush=True)

    def reach_launcher(self) -> None:
        """Show messages on the launcher's console, too.

        It shows what the first rank writes, but no more once it has received a signal itself.
        """
        self._launchers = launchers_console()

    def close(self) -> None:
        """Leave what was logged, without the live line."""
        self._scroll()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _open_terminal(self, *, live: bool) -> None:
        from rich.console import Console as RichConsole
        from rich.live import Live

        terminal = self._terminal = RichConsole(file=self._stream)
        if live and terminal.is_terminal and not terminal.is_dumb_terminal:
            # Drawn when something has changed, and by no thread that would go on in between.
            self._live = Live(
                self,
                console=terminal,
                auto_refresh=False,
                transient=True,
                # What others print scrolls above, too, unless it goes elsewhere.
                redirect_stderr=sys.stderr.isatty(),
            )

    def _move(self, shown: Metrics) -> None:
        """Let the live line show this."""
        assert self._live is not None
        if shown["global_step"] != self._shown.get("global_step"):
            self._scroll()
        self._shown = shown
        if not self._live.is_started:
            self._live.start()
            self._live.console.show_cursor(True)
        self._live.refresh()

    def __rich__(self) -> Text:
        """The live line, for a terminal as wide as it is now."""
        from rich.text import Text

        return Text(self._fitted(self._shown))

    def _scroll(self) -> None:
        """Let what was logged last scroll above the live line."""
        logged, self._logged = self._logged, None
        if logged is not None:
            self._print(self._fitted(logged))

    def _print(self, text: str, *, wrap: bool = True) -> None:
        from rich.text import Text

        assert self._terminal is not None
        # As it stands: brackets and colons of a path are no markup.
        self._terminal.print(Text(text), soft_wrap=not wrap)

    def _fitted(self, shown: Metrics) -> str:
        assert self._terminal is not None
        # A full last column would make some terminals begin another line.
        return fitted_line(shown, self._max_steps, self._terminal.width - 1)

    def _time_left(self, step: int) -> str:
        """From the pace since the first step seen: what came before was warm-up."""
        now = self._clock()
        if self._first is None or step <= self._first[0]:
            self._first = (step, now)
            return "?"
        first_step, first_time = self._first
        pace = (now - first_time) / (step - first_step)
        return duration(pace * max(0, self._max_steps - step))


def launchers_console() -> TextIO | None:
    """Where the launcher of this process writes; None without one, or where it can't be reached."""
    launcher = launchers.launcher_of_this_process()
    if launcher is None:
        return None
    process = Path(f"/proc/{launcher.process}")
    theirs = process / "fd/1"
    try:
        flags = re.search(r"flags:\s*0([0-7]+)", (process / "fdinfo/1").read_text())
        appends = flags is not None and bool(int(flags[1], 8) & os.O_APPEND)
        # In a file that it does not append to, the launcher would write over these lines.
        if theirs.samefile(f"/proc/{os.getpid()}/fd/1") or (theirs.is_file() and not appends):
            return None
        return os.fdopen(os.open(theirs, os.O_WRONLY | os.O_APPEND), "w", errors="replace")
    except OSError:
        return None


def fitted_line(metrics: Metrics, max_steps: int, width: int) -> str:
    """A step's line of at most `width` columns."""
    step = metrics["global_step"]
    assert isinstance(step, int), "a step has a number"
    line = translated(
        f"{step:>{len(str(max_steps))}}/{max_steps}  {step / max(max_steps, 1):5.1%}  "
        f"{metrics['time_left']} left  loss {metrics['loss']:.4f}"
    )
    for part in _filled(WHERE_THERE_IS_ROOM, metrics):
        if columns_of(line) + 2 + columns_of(part) > width:
            break
        line += f"  {part}"
    while columns_of(line) > width:
        line = line[:-1]
    return line


def filled_lines(parts: Sequence[str], width: int) -> str:
    """Parts in lines of at most `width` columns, none broken unless it is longer; all lines but
    the first are indented."""
    lines = [parts[0]]
    for part in parts[1:]:
        if columns_of(lines[-1]) + 2 + columns_of(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(f"  {part}")
    return "\n".join(lines)


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


def _filled(forms: Sequence[tuple[str, str]], metrics: Metrics) -> list[str]:
    return [
        translated(form.format(metrics[name]))
        for name, form in forms
        if metrics.get(name) is not None
    ]
