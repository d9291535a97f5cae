"""Stages of the data as they are written, and the samples of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.config import load_run_config, plan_batches, resolve_degrees
from llm_pretrain.config.data_stages import DataStage, samples_of_stages, stages_begun

TWO = [DataStage(until=1e9, blend="a"), DataStage(until=None, blend="1 a 2 b")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", '[{"until": "1e9", "blend": "a"}, {"blend": "1 a 2 b"}]'),
        ("run.yaml", "\n- {until: 1e9, blend: a}\n- {blend: 1 a 2 b, until: null}"),
    ],
)
def test_stages_in_a_file(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    values = {"output_dir": "o", "max_steps": "1", "do_train": "true", "data_stages": text}
    if name.endswith("json"):
        values["output_dir"] = '"o"'
        body = ", ".join(f'"{key}": {value}' for key, value in values.items())
        path.write_text(f"{{{body}}}")
    else:
        path.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
    assert list(load_run_config(path).data.data_stages or ()) == TWO


def test_stages_on_the_command_line(load: Any) -> None:
    written = '[{"until": 1e9, "blend": "a"}, {"blend": "1 a 2 b"}]'
    run = load("--data_stages", written, input_dir=None)
    assert list(run.data.data_stages) == TWO


@pytest.mark.parametrize("ends", [[], [1], [8], [8, 9, 10], [30, 31.5, 64], [64, 1e12], [79, 81]])
@pytest.mark.parametrize("samples", [0, 1, 4, 10])
@pytest.mark.parametrize("is_closed", [True, False])
def test_a_sample_is_of_the_stage_of_its_first_token(
    ends: list[float], samples: int, is_closed: bool
) -> None:
    last = [DataStage(until=2e12 if is_closed else None, blend="last")]
    stages = [*(DataStage(until=end, blend="some") for end in ends), *last]
    expected = [0] * len(stages)
    begun = []
    for number in range(samples):
        stage = len([end for end in ends if end <= 8 * number])
        if stage and not expected[stage]:
            begun.append((number, stage + 1))
        expected[stage] += 1
    assert list(samples_of_stages(stages, samples, 8)) == expected
    found = [
        (first, number)
        for first in range(samples)
        for number, _ in stages_begun(stages, 8, range(first, first + 1))
    ]
    assert found == begun
    in_one_go = stages_begun(stages, 8, range(samples))
    assert [number for number, _ in in_one_go] == [number for _, number in begun]


def test_a_stage_may_end_within_a_step_of_a_growing_batch(load: Any) -> None:
    """Steps of 2, 2, 4, 4, … samples of 32 tokens: sample 10 is within the fourth."""
    run = load(
        input_dir=None,
        data_stages=[{"until": 320, "blend": "a"}, {"blend": "b"}],
        max_steps=5,
        max_seq_length=32,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        batch_ramp=[[0, 2], [128, 4]],
    )
    plan = plan_batches(run, resolve_degrees(run.training, 1))
    assert plan.stage_samples == (10, 6)


def test_without_stages_there_are_no_samples_of_any(load: Any) -> None:
    run = load()
    assert plan_batches(run, resolve_degrees(run.training, 1)).stage_samples == ()
