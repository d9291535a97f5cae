"""Predicts and measures the memory of cases, the one without Paddle, the other by training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_pretrain.machine import environment_without_choices
from tests.launching import ROOT, run_job
from tests.planning.cases import Case
from tests.small_runs import small_config, write_config, write_data

MEASURE = Path(__file__).with_name("measure.py")
_LEAST_BOUND, _BOUND = 64 << 10, 0.005


@dataclass(frozen=True)
class Row:
    """A rank of a case, in bytes."""

    case: Case
    rank: int
    predicted: int
    measured: int

    @property
    def is_close(self) -> bool:
        """Within 0.5 % or 64 KiB."""
        bound = max(_LEAST_BOUND, _BOUND * self.measured)
        return abs(self.predicted - self.measured) <= bound


def compare(folder: Path, cases: Sequence[Case]) -> list[Row]:
    """Every rank of every case. Cases of as many processes are one launch."""
    write_data(folder / "data")
    listed = []
    for number, case in enumerate(cases):
        config = small_config(folder, folder / "data", folder / f"out-{number}", **case.keys)
        path = write_config(folder / f"{number}.json", config)
        listed.append((str(path), case.layout.processes, case.by_references))
    predicted = _predict(folder, listed)
    measured: dict[tuple[str, int], int] = {}
    for processes in sorted({each for _, each, _ in listed}):
        launched = [each for each in listed if each[1] == processes]
        for rank, found in enumerate(_measure(folder, launched, processes)):
            measured |= {(path, rank): size for path, size in found.items()}
    return [
        Row(case, rank, each["bytes"], measured[path, rank])
        for case, (path, _, _) in zip(cases, listed, strict=True)
        for rank, each in enumerate(predicted[path])
    ]


def _predict(folder: Path, listed: list[Any]) -> dict[str, list[dict[str, Any]]]:
    (folder / "all.json").write_text(json.dumps(listed))
    command = [sys.executable, "-m", "tests.planning.predict"]
    subprocess.run(
        [*command, str(folder / "all.json"), str(folder / "predicted.json")],
        cwd=ROOT,
        env={**environment_without_choices(), "PYTHONPATH": str(ROOT)},
        check=True,
    )
    found: dict[str, list[dict[str, Any]]] = json.loads((folder / "predicted.json").read_text())
    return found


def _measure(folder: Path, listed: list[Any], processes: int) -> list[dict[str, int]]:
    out = folder / f"of-{processes}"
    out.mkdir()
    (out / "cases.json").write_text(json.dumps(listed))
    run_job(
        MEASURE,
        out / "cases.json",
        out,
        processes=processes,
        log_dir=out / "log",
        environment={"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        timeout=3600,
    )
    return [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(processes)]
