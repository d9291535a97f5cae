"""An hour of one job with a fault every minute: what it holds at its end is what it held before.

    python -m tests.faults.soak [--minutes 60] [--seed 0]

Rank 0 is spared, so that its process lives from the first to the last minute, as the launcher does.
What became of it is written to output/faults/soak.json, and by `tests.faults.report` to the page.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from tests.faults.job import used_by
from tests.faults.kinds import KINDS
from tests.faults.storm import OUTPUT, Storm, commit

RESULT = OUTPUT / "soak.json"
LAYOUT = "dp2tp2"
ENDS_ALL = ("job ended by SIGTERM", "gradient not a number", "rank stopped")
"""What ends each process, so that none is old."""
SECONDS_BEFORE_A_STEP = 2.0
"""They leave the machine free, and the undisturbed run takes minutes where this one takes an hour.
"""
SETTLED = 5
"""Faults until memory, descriptors and threads are those that must not grow."""


def soak(minutes: int, seed: int, folder: Path) -> dict[str, Any]:
    """What was done, and what launcher and rank 0 held after each fault."""
    kinds = [kind for kind in KINDS if kind not in ENDS_ALL]
    draw = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    storm = Storm(
        LAYOUT,
        folder,
        pause_seconds=0.0,
        steps=round(60 * minutes / SECONDS_BEFORE_A_STEP),  # more than it can make
        seconds_before_a_step=SECONDS_BEFORE_A_STEP,
        spared=frozenset({0}),
    )
    faults: list[dict[str, Any]] = []
    began, oldest = time.monotonic(), 0
    try:
        while len(faults) < minutes:
            storm.pause_seconds = max(0.0, began + 60 * len(faults) - time.monotonic())
            kind = kinds[len(faults) % len(kinds)]
            found = storm.strike(kind, seed=draw.randrange(2**31))
            job = storm.job
            process = 0 if job is None else job.ranks()[0]
            oldest = oldest or process
            faults.append({"kind": kind, **found, "rank": used_by(process)})
            print(f"{len(faults)} of {minutes}: {kind}: {faults[-1]}", flush=True)
            assert found["survived"], found["problem"]
            assert process == oldest, "rank 0 is another process"
    finally:
        storm.end_job()
    return {
        "commit": commit(),
        "layout": LAYOUT,
        "minutes": (time.monotonic() - began) / 60,
        "faults": faults,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    found = soak(given.minutes, given.seed, OUTPUT / "soak")
    RESULT.write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
