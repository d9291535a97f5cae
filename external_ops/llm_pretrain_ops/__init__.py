"""Where the compiled operators are."""

from __future__ import annotations

from pathlib import Path


def cpu_library() -> Path:
    """The shared library behind csrc/cpu/llm_ops_cpu.h."""
    return next(Path(__file__).parent.glob("_cpu.*"))
