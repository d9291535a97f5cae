from __future__ import annotations

import subprocess
import sys

import pytest

from llm_pretrain.monitor.device import (
    max_memory_allocated,
    memory_metrics,
    memory_source,
    peak_flops,
)

SCRIPT = """
from llm_pretrain.monitor.device import max_memory_allocated
before = max_memory_allocated()
block = bytearray(b"x") * (200 * 2**20)
with_block = max_memory_allocated()
del block
print(before, with_block, max_memory_allocated())
"""


def peaks_of_new_process() -> list[float]:
    """MiB before, with and after a block of 200 MiB, in a process that has held little before."""
    child = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    return [float(peak) for peak in child.stdout.split()]


def test_the_peak_outlives_the_memory() -> None:
    before, with_block, after = peaks_of_new_process()
    # A machine short of memory may have put some of it aside meanwhile.
    assert with_block >= before + 100
    # The kernel counts a few pages late.
    assert after >= with_block - 2


def test_a_child_does_not_start_from_its_parents_peak() -> None:
    block = bytearray(b"x") * (300 * 2**20)
    before, *_ = peaks_of_new_process()
    assert before < max_memory_allocated() / 2
    del block


@pytest.mark.parametrize(
    ("device", "source"),
    [("cpu", "process's peak resident size"), ("gpu:0", "GPU allocator's peak")],
)
def test_the_source_is_that_of_the_device(
    monkeypatch: pytest.MonkeyPatch, device: str, source: str
) -> None:
    paddle = pytest.importorskip("paddle")
    monkeypatch.setattr(paddle.device, "get_device", lambda: device)
    assert memory_source() == source
    if device == "cpu":
        assert list(memory_metrics()) == ["max_memory_allocated"]


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA A100-SXM4-80GB", "float32", 19.5e12),
        ("NVIDIA A800-SXM4-80GB", "float16", 312e12),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.5e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756.5e12),
        ("NVIDIA H100 NVL", "bfloat16", 835.5e12),
        ("NVIDIA H800", "bfloat16", 989.5e12),
        ("NVIDIA H200", "bfloat16", 989.5e12),
        ("NVIDIA H20", "bfloat16", 148e12),
        ("NVIDIA L40S", "bfloat16", 362.05e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2e12),
        ("Tesla V100-SXM2-32GB", "float16", 125e12),
        ("Tesla V100-SXM2-32GB", "bfloat16", None),
        ("Tesla V100-PCIE-16GB", "float16", 112e12),
        ("NVIDIA H100 80GB HBM3", "int8", None),
        ("NVIDIA A1000 Laptop GPU", "bfloat16", None),
        ("Intel(R) Xeon(R) Processor", "float32", None),
        ("", "float32", None),
    ],
)
def test_peak(name: str, dtype: str, expected: float | None) -> None:
    assert peak_flops(name, dtype) == expected
