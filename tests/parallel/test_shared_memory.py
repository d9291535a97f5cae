"""Collectives of ranks on one machine against NumPy, and the end of a rank within one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.launching import Job

WORKER = Path(__file__).with_name("shared_memory_worker.py")


@pytest.mark.parametrize("processes", [2, 3])
def test_collectives_and_the_loss_of_a_rank(processes: int, tmp_path: Path) -> None:
    with Job(WORKER, tmp_path, processes=processes, log_dir=tmp_path / "log") as job:
        assert job.wait() != 0, "a rank has died"
        output = job.output()
    for rank in range(processes):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [], output
    for rank in range(processes - 1):
        error = (tmp_path / f"{rank}.error").read_text()
        assert f"Connection lost: process {processes - 1} of {processes}" in error
