"""The memory that this process holds, and the most that it has held."""

from __future__ import annotations

import sys
from pathlib import Path

MEBIBYTE = 2**20


def max_memory_allocated() -> float:
    """MiB: the peak of Paddle's GPU allocator, or on a CPU the process's peak resident size."""
    if _on_gpu():
        import paddle

        return float(paddle.device.cuda.max_memory_allocated()) / MEBIBYTE
    return _peak_resident_bytes() / MEBIBYTE


def memory_metrics() -> dict[str, float]:
    """MiB by Paddle's names: its GPU allocator's four numbers, on a CPU `max_memory_allocated`."""
    if not _on_gpu():
        return {"max_memory_allocated": max_memory_allocated()}
    from paddle.device import cuda

    return {
        "current_memory_allocated": cuda.memory_allocated() / MEBIBYTE,
        "current_memory_reserved": cuda.memory_reserved() / MEBIBYTE,
        "max_memory_allocated": cuda.max_memory_allocated() / MEBIBYTE,
        "max_memory_reserved": cuda.max_memory_reserved() / MEBIBYTE,
    }


def memory_source() -> str:
    """What `max_memory_allocated` measures here, in words."""
    return "GPU allocator's peak" if _on_gpu() else "process's peak resident size"


def _on_gpu() -> bool:
    # Asking must not import Paddle, nor start CUDA, in a process that does without.
    paddle = sys.modules.get("paddle")
    return paddle is not None and str(paddle.device.get_device()).startswith("gpu")


def _peak_resident_bytes() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
    # Second choice: on Linux a child starts from its parent's peak here.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) if sys.platform == "darwin" else float(peak) * 1024
