"""The functions of OpenMP that the library calls."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def path() -> Path:
    package = pytest.importorskip("llm_pretrain_ops", reason="not built: make ops")
    return package.cpu_library()


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm lists the functions")
def test_calls_no_function_of_openmp_that_paddles_lacks(path: Path) -> None:
    # Such a call finds another OpenMP, if one is loaded, for which each thread is alone.
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", path], capture_output=True, text=True, check=True
    ).stdout
    called = re.findall(r"\b(?:GOMP|omp)_\w+", listed)
    paddle = importlib.util.find_spec("paddle")
    assert paddle is not None
    openmp = ctypes.CDLL(str(Path(str(paddle.origin)).parent / "libs/libiomp5.so"))
    assert called
    assert [name for name in called if not hasattr(openmp, name)] == []
