"""Collectives of ranks on one machine against NumPy, and the end of a rank within one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from llm_pretrain.machine import environment_without_choices
from tests.launching import PATIENCE_SECONDS, ROOT, free_port

WORKER = Path(__file__).with_name("shared_memory_worker.py")


@pytest.mark.parametrize("count", [2, 3])
def test_collectives_and_the_loss_of_a_rank(count: int, tmp_path: Path) -> None:
    # Without a launcher: it would end the survivors, as soon as it sees the loss, in the middle of
    # what is looked at here.
    with ExitStack() as stack:
        ranks = [stack.enter_context(process) for process in _started(count, tmp_path)]
        stack.callback(lambda: [process.kill() for process in ranks])
        *survivors, last = ranks
        last.wait(PATIENCE_SECONDS)
        for rank in range(count):
            log = (tmp_path / f"{rank}.log").read_text(errors="replace")
            assert json.loads((tmp_path / f"{rank}.json").read_text()) == [], log
        # All stay until the last has looked: the first to go would be another loss.
        errors = [tmp_path / f"{rank}.error" for rank in range(count - 1)]
        patience = time.monotonic() + PATIENCE_SECONDS
        while not all(error.exists() for error in errors) and time.monotonic() < patience:
            assert all(process.poll() is None for process in survivors)
            time.sleep(0.05)
    for error in errors:
        assert f"Connection lost: process {count - 1} of {count}" in error.read_text()


def _started(count: int, directory: Path) -> list[subprocess.Popen[bytes]]:
    """The ranks of a job; each ends when its input does."""
    endpoints = [f"127.0.0.1:{free_port()}" for _ in range(count)]
    job = {
        **environment_without_choices(),
        "PYTHONPATH": str(ROOT),
        "PADDLE_MASTER": f"127.0.0.1:{free_port()}",
        "PADDLE_TRAINERS_NUM": str(count),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_LOCAL_SIZE": str(count),
    }
    processes = []
    for rank, endpoint in enumerate(endpoints):
        place = {"PADDLE_TRAINER_ID": str(rank), "PADDLE_CURRENT_ENDPOINT": endpoint}
        with (directory / f"{rank}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, str(WORKER), str(directory)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**job, **place},
            )
        processes.append(process)
    return processes
