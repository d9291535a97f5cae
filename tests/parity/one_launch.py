"""One launch of the worker, which trains many cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.launching import logged, run_job
from tests.small_runs import small_config, write_config

WORKER = Path(__file__).with_name("worker.py")
METRICS = ("loss", "global_norm", "eval_loss", "test_loss")

Cases = dict[str, dict[str, Any]]
"""By a case's name, the options of its configuration."""


def launch(
    folder: Path,
    name: str,
    cases: Cases,
    processes: int,
    *,
    device: str | None = None,
    environment: dict[str, str] | None = None,
    timeout: float = 1800,
) -> dict[str, Path]:
    """Train the cases one after another; their output directories.

    Args:
        folder: has the data, and the model of cases that name none.
        name: of what the launch writes there.
        device: "cpu" trains by the operators' references, None by those in C++.
    """
    outputs = {case: folder / name / case for case in cases}
    (folder / name).mkdir()
    paths = []
    for case, options in cases.items():
        config = small_config(folder / "model", folder / "data", outputs[case], **options)
        paths.append(str(write_config(folder / name / f"{case}.json", config)))
    listed = folder / f"{name}-cases.json"
    listed.write_text(json.dumps(paths))
    run_job(
        WORKER,
        *((listed, device) if device else (listed,)),
        processes=processes,
        log_dir=folder / f"log-{name}",
        environment=environment,
        timeout=timeout,
    )
    return outputs


def numbers(output: Path) -> list[float]:
    """All that a case logged: losses and gradient norms, then those of evaluations."""
    return [
        line[metric]
        for line in logged(output) + logged(output, "evaluation")
        for metric in METRICS
        if metric in line
    ]
