"""Console, JSON lines, trackers' curves and Prometheus' page: where a run's metrics go."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_pretrain.machine.language import translated
from llm_pretrain.monitor import prometheus, trackers
from llm_pretrain.monitor.console import Console, duration, sparkline
from llm_pretrain.monitor.metrics_log import Metrics, MetricsLog
from llm_pretrain.monitor.page_server import PageServer
from llm_pretrain.monitor.prometheus import MetricsPage
from llm_pretrain.monitor.trackers import Tracker
from llm_pretrain.monitor.trackers.tracked_run import TrackedRun


class Reporter:
    """Called by rank 0 only.

    A log or a curve that can't be written is said once and then done without: a full disk is no
    reason to lose a run that still learns.

    Args:
        report_to: the trackers that draw curves, see `trackers.chosen`.
        logging_dir: for the trackers' files; by default output_dir/runs/<date and host>.
        is_anew: the run begins here, whatever the directory holds.
        disable_tqdm: no live line on a terminal.
    """

    def __init__(
        self,
        output_dir: str | Path,
        logging_dir: str | Path | None,
        report_to: str | Sequence[str] | None,
        *,
        max_steps: int,
        is_anew: bool = False,
        disable_tqdm: bool = False,
    ) -> None:
        self.page = MetricsPage(str(output_dir), socket.gethostname())
        """What Prometheus is shown."""
        self._server: PageServer | None = None
        self._console = Console(max_steps, live=not disable_tqdm)
        self._losses: list[float] = []
        self._log: MetricsLog | None = None
        self._trackers: dict[str, Tracker] = {}
        try:
            self._log = MetricsLog(output_dir)
        except OSError as error:
            self.message(f"No train_log.jsonl in {output_dir}: {error}")
        if self._log is not None:
            self.page.count("restarts_total", self._log.earlier_runs)
        names = trackers.chosen(report_to)
        if names:
            self._open_trackers(names, output_dir, logging_dir, is_anew)

    def serve(self, place: int | str) -> None:
        """Show `page` at a port of loopback, or at an address and a port; a port that is taken is
        said, and no more."""
        try:
            self._server = PageServer(
                prometheus.PATH, prometheus.CONTENT_TYPE, self.page.text, place
            )
        except OSError as error:
            self.message(f"warning: no metrics at metrics_port {place}: {error.strerror or error}.")
        else:
            self.message(f"Metrics for Prometheus: {self._server.url}")

    def progressed(self, step: int, loss: float) -> None:
        """Any step, for the live line alone."""
        self._console.progressed(step, loss)

    def step(self, metrics: Metrics) -> None:
        """A logged step. Keys: global_step, loss, learning_rate, global_norm, ..."""
        loss = metrics.get("loss")
        if isinstance(loss, int | float) and math.isfinite(loss):
            self._losses.append(float(loss))
        self._console.step(metrics)
        self._record("step", "train", metrics)

    def hyper_parameters(self, values: Mapping[str, Any]) -> None:
        """The run's configuration, for the trackers' pages of them."""
        plain = {
            # A truth value is a number to some trackers and none to others.
            key: value if type(value) in (int, float, str) else json.dumps(value)
            for key, value in values.items()
        }
        self._track(lambda tracker: tracker.hyper_parameters(plain))

    @property
    def last_goodput(self) -> Mapping[str, Any] | None:
        """The last record of the time of earlier starts in this directory."""
        return self._log.last_goodput if self._log is not None else None

    def goodput(self, record: Mapping[str, Any]) -> None:
        """Where the run's time has gone, for the log alone."""
        self._write_line("goodput", record)

    def operators(self, served_by: Metrics) -> None:
        """What serves each operator, for the log alone."""
        self._write_line("operators", served_by)

    def event(self, values: Mapping[str, Any]) -> None:
        """What the operator is told of, for the log alone. Keys: global_step, event, message, …,
        with values as JSON has them."""
        self.page.count("events_total", label=("event", str(values["event"])))
        if values["event"] == "failed_save":
            self.page.count("failed_saves_total")
        self._write_line("event", values)

    def evaluation(self, metrics: Metrics) -> None:
        """An evaluation. Keys: global_step, eval_loss, eval_ppl, ..."""
        self._console.evaluation(metrics)
        self._record("evaluation", "eval", metrics)

    def saved(self, metrics: Metrics) -> None:
        """A checkpoint. Keys: global_step, checkpoint, bytes, seconds, blocked_seconds."""
        size, seconds, blocked = (metrics[key] for key in ("bytes", "seconds", "blocked_seconds"))
        assert isinstance(size, int)
        assert isinstance(seconds, float)
        assert isinstance(blocked, float)
        # What training has not waited for was written beside it.
        waited = f", of which training waited {blocked:.2g} s" if blocked < seconds / 2 else ""
        self.message(
            f"Saved {metrics['checkpoint']}: {readable_size(size)} in {seconds:.1f} s{waited}."
        )
        self._write_line("save", metrics)
        values = {"save_bytes": size, "save_seconds": seconds, "save_blocked_seconds": blocked}
        self.page.set(values)
        self.page.count("saves_total")

    def note(self, kind: str, fields: Metrics) -> None:
        """A line for the log alone."""
        self._write_line(kind, fields)

    def message(self, text: str) -> None:
        """Say something, in the reader's language."""
        self.show(translated(text))

    def show(self, text: str) -> None:
        """Show a text as it is."""
        self._console.message(text)

    def reach_launcher(self) -> None:
        """Show messages on the launcher's console, too."""
        self._console.reach_launcher()

    def summary(self, metrics: Metrics, texts: Mapping[str, str] | None = None) -> None:
        """The end of the run, counted from the steps that it really took.

        `texts`: by name, what the console shows in place of a value.
        """
        width = max((len(name) for name in metrics), default=0)
        shown = {name: _readable(name, value) for name, value in metrics.items()}
        shown |= {name: translated(text) for name, text in (texts or {}).items()}
        lines = [f"{name:<{width}}  {text}" for name, text in shown.items()]
        if len(self._losses) > 1:
            first, last = f"{self._losses[0]:.3f}", f"{self._losses[-1]:.3f}"
            label = f"{'loss':<{width}}  {first} "
            room = self._console.width - len(f"{label} {last}") - 1
            lines.append(f"{label}{sparkline(self._losses, min(60, max(room, 1)))} {last}")
        self._console.message("\n".join(lines))
        self._write_line("summary", metrics)

    def command(self, name: str, words: str) -> None:
        """A command to copy, which is not broken into lines."""
        self._console.message(f"{name}  {words}", wrap=False)

    def close(self) -> None:
        self._console.close()
        if self._log is not None:
            self._log.close()
        self._track(lambda tracker: tracker.close())
        if self._server is not None:
            self._server.close()

    def _open_trackers(
        self,
        names: Sequence[str],
        output_dir: str | Path,
        logging_dir: str | Path | None,
        is_anew: bool,
    ) -> None:
        try:
            run = TrackedRun(output_dir, logging_dir, is_anew=is_anew)
        except OSError as error:
            self.message(f"No curves in {logging_dir or output_dir}: {error}")
            return
        for name in names:
            try:
                self._trackers[name] = trackers.open_tracker(name, run)
            except ImportError as error:
                self.message(f"No curves: {error}.")
            except Exception as error:  # a stranger's program, and no reason to end a run
                self.message(f"No curves by {name} in {run.directory}: {error}")

    def _record(self, kind: str, prefix: str, metrics: Metrics) -> None:
        self._write_line(kind, metrics)
        self.page.set(metrics)
        step, values = metrics["global_step"], trackers.scalars_of(prefix, metrics)
        assert isinstance(step, int), "a curve needs the step"
        self._track(lambda tracker: tracker.scalars(step, values))

    def _track(self, tell: Callable[[Tracker], None]) -> None:
        """Tell every tracker; one that fails is told no more."""
        for name, tracker in [*self._trackers.items()]:
            try:
                tell(tracker)
            except Exception as error:  # as above
                del self._trackers[name]
                self.message(f"No more curves by {name} from here on: {error}")

    def _write_line(self, kind: str, metrics: Mapping[str, Any]) -> None:
        if self._log is None:
            return
        try:
            self._log.write(kind, metrics)
        except OSError as error:
            log, self._log = self._log, None
            log.close()
            self.message(f"No more lines in {log.path} from here on: {error}")


def readable_size(size: int) -> str:
    """Bytes with three digits, and in the unit that they fit: "2.11 MB"."""
    power = 0
    while power < 4 and size / 1000**power >= 999.5:
        power += 1
    return f"{size / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def _readable(name: str, value: float | int | str | None) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, str):
        return value
    if name.endswith("runtime"):
        return duration(value) if math.isfinite(value) else str(value)
    if name.endswith("max_memory_allocated"):
        return f"{value:,.0f} MiB"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
