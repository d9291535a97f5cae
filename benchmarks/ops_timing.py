"""Shared by the programs that ops.py compares; needs no more than the standard library.

A program answers requests, one a line, [operator, dtype], with a line of its own: by pass, the
seconds of every run.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_UP, FEWEST, MOST, SECONDS = 2, 3, 100, 0.3
"""Runs that don't count; fewest and most that do; how long it goes on once the fewest are done."""

Passes = dict[str, float]
"""By pass, the seconds of one run."""


def seconds_of(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(once: Callable[[], Passes]) -> dict[str, list[float]]:
    """Seconds by pass of every run of `once`, which runs all of them."""
    for _ in range(WARM_UP):
        once()
    runs: list[Passes] = []
    ends = time.perf_counter() + SECONDS
    while len(runs) < FEWEST or (len(runs) < MOST and time.perf_counter() < ends):
        runs.append(once())
    return {name: [run[name] for run in runs] for name in runs[0]}


def serve(prepare: Callable[[str, str], Callable[[], Passes]]) -> None:
    """Measure what `prepare` makes of the operator and the dtype of every request."""
    for line in sys.stdin:
        operator, dtype = json.loads(line)
        print(json.dumps(measure(prepare(operator, dtype))), flush=True)
