"""10,000 damaged files: each is refused with its name, or read within its bounds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.launching import ROOT

READER = Path(__file__).with_name("fuzz_reader.py")


@pytest.mark.parametrize(
    ("ending", "count"), [(".idx", 4000), ("_idx.npz", 3000), ("_ids.npy", 2000), (".bin", 1000)]
)
def test_mutations(tmp_path: Path, ending: str, count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(READER), str(tmp_path), ending, str(count)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr}"
    refused, read = map(int, done.stdout.split())
    # A fuzz that never reaches a reading, or never an error, would prove little.
    assert refused + read == count
    assert read > count // 100
    assert refused > count // 4
