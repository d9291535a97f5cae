"""A batch that grows takes the samples of the order, in every layout and over resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.launching import Job, logged
from tests.parity.grid import DP2, PP2, TP2, Layout
from tests.parity.one_launch import launch
from tests.small_runs import small_config, write_config, write_data, write_model

RECORDING = Path(__file__).parents[1] / "training" / "recording_samples.py"
LENGTH = 32
RAMP = [[0, 4], [LENGTH * 9, 8], [LENGTH * 30, 16]]
CONSUMED = [4, 8, 12, 20, 28, 36, 52, 68]
"""Samples after each step: 4 until 9 are consumed, 8 until 30 are."""


def ramp_of(layout: Layout) -> dict[str, Any]:
    per_device = 2
    return {
        **layout.options,
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": 16 // per_device // layout.batch_ranks,
        "batch_ramp": RAMP,
        "max_seq_length": LENGTH,
        "max_steps": len(CONSUMED),
    }


def figures(output: Path) -> list[float]:
    return [line[name] for line in logged(output) for name in ("loss", "global_norm")]


def test_every_layout_takes_the_steps_of_one_process(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    write_model(tmp_path / "model")
    layouts = (DP2, PP2, TP2)
    one = launch(tmp_path, "one", {"one": ramp_of(Layout("one"))}, 1)["one"]
    two = launch(tmp_path, "two", {layout.name: ramp_of(layout) for layout in layouts}, 2)
    assert [line["consumed_samples"] for line in logged(one)] == CONSUMED
    for name, output in two.items():
        assert [line["consumed_samples"] for line in logged(output)] == CONSUMED, name
        assert figures(output) == pytest.approx(figures(one), rel=1e-5), name


def test_no_sample_is_repeated_or_lost_over_resumes(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    write_model(tmp_path / "model")
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    # Micro-steps of rank 0 until the stop, whose step is finished, and samples consumed by then.
    for number, (layout, stop_after, consumed) in enumerate(
        [(Layout("one"), 7, 20), (DP2, 3, 36), (Layout("one"), 0, 68)]
    ):
        options = {"save_strategy": "steps", "save_steps": 100, **ramp_of(layout)}
        config = small_config(tmp_path / "model", tmp_path / "data", tmp_path / "out", **options)
        path = write_config(tmp_path / f"{number}.json", config)
        log = tmp_path / f"log{number}"
        arguments = (recorded, stop_after, path)
        with Job(RECORDING, *arguments, processes=layout.processes, log_dir=log) as job:
            job.wait()
            output = job.output()
        lines = [line for file in recorded.glob("*.jsonl") for line in file.open()]
        assert sorted(json.loads(line)[0] for line in lines) == list(range(consumed)), output
    steps = [(line["global_step"], line["consumed_samples"]) for line in logged(tmp_path / "out")]
    assert steps == list(enumerate(CONSUMED, 1))
