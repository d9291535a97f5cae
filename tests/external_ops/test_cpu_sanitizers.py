"""The CPU operators under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SANITIZERS = "-fsanitize=address,undefined"
OVERRUN = """
import sys
from pathlib import Path
import numpy as np
from tests.external_ops.cpu_library import CpuLibrary
x, short = np.ones(64, np.float32), np.ones(63, np.float32)
library = CpuLibrary(Path(sys.argv[1]))
library("rms_norm", 1, 64, x, None, "float32", x, "float32", x, 1e-5, short, x)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """csrc/cpu, built as it always is but with the sanitizers."""
    folder = tmp_path_factory.mktemp("sanitized")
    flags = {"CXXFLAGS": f"-g {SANITIZERS} -fno-sanitize-recover=all", "LDFLAGS": SANITIZERS}
    command = [sys.executable, "setup.py", "--quiet", "build_ext"]
    subprocess.run(
        [*command, "--build-lib", str(folder), "--build-temp", str(folder / "objects")],
        cwd=ROOT / "external_ops",
        env=os.environ | flags,
        check=True,
    )
    return next(folder.glob("llm_pretrain_ops/_cpu.*"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the sanitizers' libraries loaded first. What Python leaks is its affair."""
    runtimes = [
        subprocess.check_output(["g++", f"-print-file-name=lib{name}.so"], text=True).strip()
        for name in ("asan", "ubsan")
    ]
    environment = {"LD_PRELOAD": " ".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_operators_are_clean(library: Path) -> None:
    result = run("-m", "tests.external_ops.cpu_checks", str(library), "--seeds", "12")
    assert result.returncode == 0, result.stderr
    assert "runtime error" not in result.stderr


@pytest.mark.slow
def test_an_overrun_would_be_seen(library: Path) -> None:
    result = run("-c", OVERRUN, str(library))
    assert "heap-buffer-overflow" in result.stderr
