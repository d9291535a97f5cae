"""Host and device meet once in a step, whatever the layout: a GPU would idle at each meeting."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.launching import ROOT, run_job
from tests.small_runs import small_config, write_config, write_data, write_model

WORKER = ROOT / "tests" / "emulated_device" / "count_meetings.py"
STEPS = 4

LONE: dict[str, dict[str, Any]] = {
    "recompute": {"recompute": True},
    "several micro-batches": {"gradient_accumulation_steps": 3},
}
IN_PAIRS: dict[str, dict[str, Any]] = {
    "data": {},
    "sharding 1": {"sharding": "stage1", "sharding_parallel_degree": 2},
    "sharding 2": {"sharding": "stage2", "sharding_parallel_degree": 2},
    "sharding 3": {"sharding": "stage3", "sharding_parallel_degree": 2},
    "tensor": {"tensor_parallel_degree": 2},
    "sequence parallel": {"tensor_parallel_degree": 2, "sequence_parallel": True},
    "pipeline": {"pipeline_parallel_degree": 2},
    "interleaved pipeline": {"pipeline_parallel_degree": 2, "virtual_pp_degree": 2},
    "exchange of heads": {"sep_parallel_degree": 2},
    "ring attention": {"context_parallel_degree": 2},
}


@pytest.mark.parametrize(
    ("processes", "layouts"), [(1, LONE), pytest.param(2, IN_PAIRS, marks=pytest.mark.slow)]
)
def test_a_step_has_one_meeting(
    processes: int,
    layouts: dict[str, dict[str, Any]],
    tmp_path: Path,
    device_environment: dict[str, str],
) -> None:
    data, model = write_data(tmp_path / "data"), write_model(tmp_path / "model")
    cases = []
    for number, options in enumerate(layouts.values()):
        options = {"gradient_accumulation_steps": 2, **options, "max_steps": STEPS}
        config = small_config(model, data, tmp_path / f"{number}", **options)
        cases.append(str(write_config(tmp_path / f"{number}.json", config)))
    listed, counts = tmp_path / "cases.json", tmp_path / "counts.json"
    listed.write_text(json.dumps(cases))
    run_job(
        WORKER,
        listed,
        counts,
        processes=processes,
        log_dir=tmp_path / "log",
        environment=device_environment,
        timeout=1800,
    )
    found = dict(zip(layouts, json.loads(counts.read_text()), strict=True))
    for name, after_steps in found.items():
        assert [late - early for early, late in pairwise(after_steps)] == [1] * (STEPS - 1), name
