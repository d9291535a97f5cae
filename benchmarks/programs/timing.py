"""Shared by the programs that train_step.py compares; needs no more than the standard library."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def time_steps(step: Callable[[], float], count: int, result: Path) -> None:
    """Run `step` (which returns the loss) `count` times and write what was measured."""
    seconds, losses = [], []
    for _ in range(count):
        began = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - began)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    measured: dict[str, Any] = {"seconds": seconds, "losses": losses, "memory_mib": memory}
    result.write_text(json.dumps(measured), encoding="utf-8")
