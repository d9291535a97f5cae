"""Times the operators against PyTorch's own, on one GPU.

    python bench.py LIBRARY

Prints a Markdown table: microseconds of one call, the median of 50 after 10 that warm up, each
timed by events of CUDA; "theirs" is the fastest of what PyTorch offers, which is named. Then what
share of the bandwidth of a copy, measured first, an operator reaches by the bytes that it cannot
do without, or its TFLOP/s where products are the work.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from bench_cases import Case, cases
from library import Library

WARM_UP, CALLS = 10, 50


class Timing(NamedTuple):
    """Of one call: microseconds, and MiB that it allocates at its peak."""

    microseconds: float
    memory: float


def timing(call: Callable[[], object]) -> Timing:
    for _ in range(WARM_UP):
        call()
    torch.cuda.reset_peak_memory_stats()
    before, times = torch.cuda.memory_allocated(), []
    for _ in range(CALLS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(1000 * begin.elapsed_time(end))
    memory = torch.cuda.max_memory_allocated() - before
    return Timing(statistics.median(times), memory / 2**20)


def copy_bandwidth() -> float:
    """GB/s read and written together while 1 GiB is copied."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * 2**30 / timing(lambda: target.copy_(source)).microseconds / 1000


def work_of(case: Case, microseconds: float, bandwidth: float) -> str:
    if case.operations:
        return f"{case.operations / microseconds / 1e6:.0f} TFLOP/s"
    return f"{case.bytes / microseconds / 1000 / bandwidth:.0%} of copy"


def main() -> None:
    library = Library(Path(sys.argv[1]), "cuda")
    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    print(f"A copy: {bandwidth:.0f} GB/s read and written.\n")
    print("| operator | ours, µs | of the machine | MiB | theirs, µs | MiB | which |")
    print("|---|---|---|---|---|---|---|")
    for case in cases(library):
        ours = timing(case.ours)
        theirs = {which: timing(call) for which, call in case.theirs.items()}
        which = min(theirs, key=lambda name: theirs[name].microseconds)
        best = theirs[which]
        print(
            f"| {case.name} | {ours.microseconds:.0f} | "
            f"{work_of(case, ours.microseconds, bandwidth)} | {ours.memory:.0f} | "
            f"{best.microseconds:.0f} | {best.memory:.0f} | {which} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
