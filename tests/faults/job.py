"""A job under `llm-pretrain launch` to which faults are done, and what came of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from llm_pretrain.checkpoint.directory import checkpoints_in, step_of, what_is_missing
from llm_pretrain.machine import environment_without_choices
from llm_pretrain.monitor.metrics_log import read_metrics
from tests.launching import ROOT
from tests.small_runs import small_config, write_config, write_data, write_model

PATIENCE_SECONDS = 240.0
"""Until a job counts as hung."""
_PLACE = re.compile(r"Rank (\d+) is process (\d+)\.")


class Layout(NamedTuple):
    """Processes, and how they share the work."""

    processes: int
    options: dict[str, Any]


LAYOUTS = {
    "one": Layout(1, {}),
    "dp2": Layout(2, {}),
    "sd2, stage 2": Layout(2, {"sharding": "stage2"}),
    "tp2": Layout(2, {"tensor_parallel_degree": 2}),
    "pp2": Layout(2, {"pipeline_parallel_degree": 2}),
    "dp3": Layout(3, {}),
    "dp2tp2": Layout(4, {"tensor_parallel_degree": 2}),
    "sd2pp2, stage 1": Layout(4, {"sharding": "stage1", "pipeline_parallel_degree": 2}),
    "dp2tp2pp2": Layout(8, {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2}),
}


class Curve(NamedTuple):
    """What is compared of a run: step, loss and norm of each step, as they are in the log."""

    steps: list[tuple[int, float, float]]

    @classmethod
    def of(cls, output_dir: Path) -> Curve:
        lines = (line for line in read_metrics(output_dir) if line["kind"] == "step")
        return cls([(line["global_step"], line["loss"], line["global_norm"]) for line in lines])


class Job:
    """One run in a folder, which may be started again and again.

    Args:
        seconds_before_a_step: that each rank waits.
        spared: the ranks to whose processes no fault is done.
    """

    def __init__(
        self,
        folder: Path,
        layout: Layout,
        steps: int,
        seconds_before_a_step: float = 0.0,
        spared: frozenset[int] = frozenset(),
    ) -> None:
        self.folder = folder
        self.seconds_before_a_step = seconds_before_a_step
        self.spared = spared
        self.output = folder / "output"
        self.layout = layout
        self.console = folder / "console.txt"
        folder.mkdir(parents=True, exist_ok=True)
        shared = folder.parent / "shared"
        if not shared.exists():
            shared.mkdir(parents=True)
            write_data(shared, documents=2000)
            write_model(shared / "model", num_hidden_layers=2)
        samples = 24 if layout.processes == 3 else 16
        batch_ranks = layout.processes
        for key in ("tensor_parallel_degree", "pipeline_parallel_degree"):
            batch_ranks //= layout.options.get(key, 1)
        config = small_config(
            shared / "model",
            shared,
            self.output,
            max_steps=steps,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=samples // 2 // batch_ranks,
            save_strategy="steps",
            save_steps=5,
            save_total_limit=3,
            use_async_save=True,
            max_failed_saves=1000,
            max_restarts=100_000,
            max_rewinds=100_000,
            integrity="repeat",
            integrity_interval=5,
            distributed_timeout=10,
            **layout.options,
        )
        self.config = write_config(folder / "config.json", config)
        self.process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def start(self) -> None:
        self._starts += 1
        (self.folder / "faults").mkdir(exist_ok=True)
        command = [sys.executable, "-m", "llm_pretrain", "launch"]
        command += ["--nproc", str(self.layout.processes), "--log_dir", str(self.folder / "log")]
        path = f"{ROOT / 'tests' / 'faults' / 'injected'}:{ROOT}"
        with self.console.open("ab") as console:
            self.process = subprocess.Popen(
                [*command, str(self.config)],
                stdout=console,
                stderr=console,
                cwd=ROOT,
                env={
                    **environment_without_choices(),
                    "PYTHONPATH": path,
                    "INJECTED_FAULTS": str(self.folder / "faults"),
                    "SECONDS_BEFORE_A_STEP": str(self.seconds_before_a_step),
                    "OMP_NUM_THREADS": "1",
                },
                start_new_session=True,
            )

    def end(self) -> None:
        """End all processes, however they are."""
        if self.process is not None:
            with_group = self.process.poll() is None
            for process in (*self.ranks().values(), *self.writers()):
                send(process, signal.SIGKILL)
            if with_group:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def ranks(self) -> dict[int, int]:
        """The process of each rank, as the launcher says."""
        places = _PLACE.findall(self.console.read_text(errors="replace"))
        found = {int(rank): int(process) for rank, process in places}
        return {rank: process for rank, process in found.items() if _is_ours(process)}

    def writers(self) -> list[int]:
        """The processes that write checkpoints."""
        found = []
        for process in self.ranks().values():
            children = _read(f"/proc/{process}/task/{process}/children").split()
            found += [
                int(child) for child in children if "checkpoint.writer" in _command(int(child))
            ]
        return found

    def launcher_uses(self) -> dict[str, int]:
        """Memory, descriptors and threads of the launcher."""
        return {} if self.process is None else used_by(self.process.pid)

    def ranks_use(self) -> dict[str, int]:
        """The most of each that one rank has."""
        found = [used_by(process) for process in self.ranks().values()]
        keys = ("kilobytes", "descriptors", "threads")
        return {key: max((used.get(key, 0) for used in found), default=0) for key in keys}

    def lines(self) -> list[dict[str, Any]]:
        """All lines of the log, of the abandoned past as well."""
        path = self.output / "train_log.jsonl"
        found = []
        for text in path.read_text().splitlines() if path.exists() else []:
            try:
                found.append(json.loads(text))
            except ValueError:
                continue
        return found

    def last_step(self) -> int:
        steps = (line["global_step"] for line in self.lines() if line["kind"] == "step")
        return max(steps, default=0)

    def wait_until(
        self, condition: Callable[[], bool], what: str, patience: float = PATIENCE_SECONDS
    ) -> None:
        """Return when it holds.

        Raises:
            HungError: it does not, in time.
        """
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() > deadline:
                tail = self.console.read_text(errors="replace")[-3000:]
                raise HungError(f"not within {patience:.0f} s: {what}\n{tail}")
            time.sleep(0.02)

    def has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def formations(self) -> int:
        """How often the ranks have come together again, under this launcher or another."""
        said = self.console.read_text(errors="replace").count("the ranks form anew")
        return said + self._starts

    def newest_checkpoint(self) -> int:
        """The step of the newest whole checkpoint; 0 for none."""
        whole = [path for path in checkpoints_in(self.output) if what_is_missing(path) is None]
        return step_of(whole[-1]) if whole else 0


class HungError(AssertionError):
    """The job does not go on."""


def _is_ours(process: int) -> bool:
    return "llm_pretrain.launch.rank" in _command(process)


def used_by(process: int) -> dict[str, int]:
    """Its memory in KiB, descriptors and threads; nothing, if it is gone."""
    status = dict(
        line.split(":", 1) for line in _read(f"/proc/{process}/status").splitlines() if ":" in line
    )
    if "VmRSS" not in status:
        return {}
    return {
        "kilobytes": int(status["VmRSS"].split()[0]),
        "descriptors": len(os.listdir(f"/proc/{process}/fd")),
        "threads": int(status["Threads"]),
    }


def _command(process: int) -> str:
    return _read(f"/proc/{process}/cmdline")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def send(process: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)
