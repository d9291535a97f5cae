"""Flash attention takes memory linear in the length of a sample, plain attention quadratic."""

from __future__ import annotations

import json
from pathlib import Path

from tests.launching import run_job

WORKER = Path(__file__).with_name("attention_memory_worker.py")


def test_twice_the_length(tmp_path: Path) -> None:
    run_job(WORKER, tmp_path / "found.json", log_dir=tmp_path / "log")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["flash"]["4096"] < 2.3 * found["flash"]["2048"]
    assert found["plain"]["4096"] > 3 * found["plain"]["2048"]
