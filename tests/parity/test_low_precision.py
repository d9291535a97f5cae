"""16-bit training in a split layout follows one process as closely as rounding lets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.launching import logged, run_job
from tests.small_runs import small_config, write_config, write_data, write_model

WORKER = Path(__file__).with_name("worker.py")
CASES: dict[str, dict[str, Any]] = {
    "bf16-O1": {"bf16": True},
    "bf16-O2": {"bf16": True, "fp16_opt_level": "O2", "amp_master_grad": True},
    "fp16-O1": {"fp16": True},
    "fp16-O2": {"fp16": True, "fp16_opt_level": "O2"},
}


def train_cases(folder: Path, name: str, processes: int, **options: Any) -> dict[str, list[float]]:
    paths = []
    for case, precision in CASES.items():
        config = small_config(
            folder / "model",
            folder / "data",
            folder / f"{name}-{case}",
            max_steps=6,
            gradient_accumulation_steps=2,
            **precision,
            **options,
        )
        paths.append(str(write_config(folder / f"{name}-{case}.json", config)))
    (folder / f"{name}.json").write_text(json.dumps(paths))
    run_job(WORKER, folder / f"{name}.json", processes=processes, log_dir=folder / f"log-{name}")
    return {case: [line["loss"] for line in logged(folder / f"{name}-{case}")] for case in CASES}


def test_tensor_and_pipeline_parallel_in_16_bits(tmp_path: Path) -> None:
    write_model(tmp_path / "model", num_hidden_layers=2, attention_bias=True)
    write_data(tmp_path / "data")
    one = train_cases(tmp_path, "one", 1)
    four = train_cases(tmp_path, "four", 4, tensor_parallel_degree=2, pipeline_parallel_degree=2)
    for case in CASES:
        assert len(four[case]) == 6
        assert four[case] == pytest.approx(one[case], rel=2e-3), case
