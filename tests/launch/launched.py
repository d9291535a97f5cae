"""Jobs under `llm-pretrain launch` that train a small model, and their losses."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

from llm_pretrain.monitor.metrics_log import read_metrics
from tests.launching import Job
from tests.small_runs import small_config, write_config, write_data, write_model

STEPS = 24
SAVE_STEPS = 5


def write_run(folder: Path, **changes: object) -> Path:
    """A config of a run that saves at every fifth step."""
    settings = {
        "max_steps": STEPS,
        "save_strategy": "steps",
        "save_steps": SAVE_STEPS,
        "gradient_accumulation_steps": 2,
        "distributed_timeout": 60,
        **changes,
    }
    contents = small_config(
        write_model(folder / "model", num_hidden_layers=2),
        write_data(folder / "data"),
        folder / "out",
        **settings,
    )
    return write_config(folder / "config.json", contents)


class Launched(Job):
    """A job under the launcher, in the folder of its config."""

    def __init__(
        self,
        config: Path,
        *arguments: object,
        processes: int,
        log_dir: Path,
        machine: tuple[object, ...] = (),
    ) -> None:
        """`machine`: options of the launcher that say which of several this one is."""
        words = ("llm_pretrain", "launch", "--nproc", processes, *machine, "--log_dir", log_dir)
        super().__init__(
            Path("-m"),
            *words,
            config,
            *arguments,
            log_dir=log_dir,
            environment={"OMP_NUM_THREADS": "1"},
        )

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        print(*re.findall("launch: .*", self.text()), sep="\n")

    def text(self) -> str:
        return self.console.read_text(errors="replace")

    def await_text(self, pattern: str, count: int = 1) -> None:
        """Wait until the console has `pattern` so many times."""
        self.await_(lambda: len(re.findall(pattern, self.text())) >= count, pattern)

    def await_(self, is_so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 200
        while not is_so():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, f"no {what}:\n{self.output()}"
            time.sleep(0.01)

    def processes(self) -> dict[int, int]:
        """The process of each rank."""
        found = re.findall(r"launch: Rank (\d+) is process (\d+)\.", self.text())
        return {int(rank): int(process) for rank, process in found}

    def kill(self, rank: int) -> None:
        os.kill(self.processes()[rank], signal.SIGKILL)


def losses(output_dir: Path) -> list[tuple[int, float]]:
    """Of every step, without those that were taken again."""
    lines = [line for line in read_metrics(output_dir) if line["kind"] == "step"]
    return [(line["global_step"], line["loss"]) for line in lines]


def undisturbed(config: Path, folder: Path, processes: int) -> list[tuple[int, float]]:
    output = folder / "undisturbed"
    arguments = ("--output_dir", output)
    with Launched(
        config, *arguments, processes=processes, log_dir=folder / "log-undisturbed"
    ) as job:
        assert job.wait() == 0, job.output()
    return losses(output)
