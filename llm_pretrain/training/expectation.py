"""What a plan expects of the run that is under way, to be told beside what is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from llm_pretrain.training.run_record import FILE_NAME


class Expectation:
    """A plan of the run in `output_dir`, made by a process of its own while the run goes on.

    The process does without Paddle, and has the lowest priority.
    """

    def __init__(self, output_dir: str | Path) -> None:
        record = str(Path(output_dir, FILE_NAME))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "llm_pretrain.cli.own_plan", record],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
        os.setpriority(os.PRIO_PROCESS, self._process.pid, 19)
        self._plan: dict[str, Any] | None = None

    def metrics(self) -> dict[str, float]:
        """Tokens per second of a device, and MiB that Paddle allocates on the fullest rank; nothing
        where the plan isn't made yet, or the device is unknown."""
        assert self._process.stdout is not None
        if self._process.poll() == 0 and not self._process.stdout.closed:
            with self._process.stdout as output:
                self._plan = json.load(output)
        if self._plan is None:
            return {}
        return {
            "planned_tokens_per_second_per_device": self._plan["tokens_per_second_per_device"],
            "planned_max_memory_allocated": self._plan["max_memory_allocated_mib"],
        }

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        with self._process:  # reads no more, and waits
            pass
