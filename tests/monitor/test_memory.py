from __future__ import annotations

import os
import subprocess
import sys

import pytest

from llm_pretrain.monitor import memory
from llm_pretrain.monitor.memory import max_memory_allocated, memory_metrics, memory_source


@pytest.fixture(autouse=True)
def _on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_on_gpu", lambda: False)


def test_the_peak_outlives_the_memory() -> None:
    before = max_memory_allocated()
    # Where the process has held more before, this much stays below its old peak.
    block = bytearray(os.urandom(1024)) * (200 * 1024)
    with_block = max_memory_allocated()
    del block
    assert with_block >= max(before, 200)
    # The kernel counts a few pages late.
    assert max_memory_allocated() >= with_block - 2


def test_on_a_processor_the_process_is_measured() -> None:
    assert memory_source() == "process's peak resident size"
    assert list(memory_metrics()) == ["max_memory_allocated"]


def test_a_child_does_not_start_from_its_parents_peak() -> None:
    block = bytearray(os.urandom(1024)) * (300 * 1024)
    script = "from llm_pretrain.monitor.memory import max_memory_allocated as m; print(m())"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert float(child.stdout) < len(block) / 2**20
