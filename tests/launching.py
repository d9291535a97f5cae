"""Starting real jobs of several processes, as a user would."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from llm_pretrain.machine import environment_without_choices

ROOT = Path(__file__).resolve().parent.parent
RUN_PRETRAIN = ROOT / "run_pretrain.py"
PATIENCE_SECONDS = 600
"""Until a job counts as hung: many times what it takes on a machine that does much else besides."""


class Job:
    """A running launcher, or a lone process; ended with all its children on leaving the block."""

    def __init__(
        self,
        script: Path,
        *arguments: object,
        processes: int = 1,
        log_dir: Path,
        launcher_arguments: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        command = [*prefix, sys.executable]
        if processes > 1 or launcher_arguments:
            command += ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
            command += ["--log_dir", str(log_dir), *launcher_arguments]
        command += [str(script), *(str(argument) for argument in arguments)]
        log_dir.mkdir(parents=True, exist_ok=True)
        self.log_dir = log_dir
        self.console = log_dir / "console.txt"
        with self.console.open("a") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={
                    **environment_without_choices(),
                    "PYTHONPATH": str(ROOT),
                    **(environment or {}),
                },
                start_new_session=True,
            )

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def wait(self, timeout: float = PATIENCE_SECONDS) -> int:
        """The exit status; fails the test with the output when time runs out."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end after {timeout} s:\n{self.output()}") from None

    def output(self) -> str:
        """What stood on the console, and then every rank's own log."""
        logs = sorted(self.log_dir.glob("workerlog.*"))
        texts = [self.console.read_text(errors="replace")]
        texts += [f"== {log.name}\n{log.read_text(errors='replace')[-6000:]}" for log in logs]
        return "\n".join(texts)


def run_job(
    script: Path, *arguments: object, timeout: float = PATIENCE_SECONDS, **options: Any
) -> str:
    """Run to the end, assert success, and return the console's text."""
    with Job(script, *arguments, **options) as job:
        status = job.wait(timeout)
        assert status == 0, job.output()
        return job.console.read_text(errors="replace")


def logged(output_dir: Path, kind: str = "step") -> list[dict[str, Any]]:
    """The lines of one kind in `train_log.jsonl`, of all runs in that directory."""
    lines = map(json.loads, (output_dir / "train_log.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def events(output_dir: Path, event: str) -> list[dict[str, Any]]:
    """What the operator of a run was told of one sort."""
    return [line for line in logged(output_dir, "event") if line["event"] == event]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
