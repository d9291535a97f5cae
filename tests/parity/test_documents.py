"""Documents kept apart in samples with blanks: every layout trains as one process does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.data import IndexedWriter
from llm_pretrain.models.families import SEEDS
from tests.launching import RUN_PRETRAIN, logged, run_job
from tests.small_runs import small_config, write_config

WORKER = Path(__file__).with_name("worker.py")
MODELS = ("tiny/chatglm", "tiny/glm-130b")
(END,) = {SEEDS[model]["eos_token_id"] for model in MODELS}
STEPS = 6
APART = {"reset_attention_mask": True, "reset_position_ids": True}
LAYOUTS = {
    "tp2pp2": (4, {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2}),
    "tp2, sequence parallel": (2, {"tensor_parallel_degree": 2, "sequence_parallel": True}),
    "sep2": (2, {"sep_parallel_degree": 2}),
    "cp2": (2, {"context_parallel_degree": 2}),
}

Steps = list[dict[str, Any]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of which most samples of 32 tokens hold several."""
    folder, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    with IndexedWriter(folder / "text", np.uint16) as writer:
        for _ in range(400):
            writer.add_document(np.append(generator.integers(0, 120, generator.integers(30)), END))
    return folder


def config(seed: str, data: Path, output: Path, **options: Any) -> Path:
    run = small_config(
        Path(seed),
        data,
        output,
        max_steps=STEPS,
        num_hidden_layers=3,
        gradient_accumulation_steps=4,
        **options,
    )
    return write_config(output.with_suffix(".json"), run)


def by_command(seed: str, data: Path, output: Path, **options: Any) -> Steps:
    path = config(seed, data, output, **options)
    run_job(RUN_PRETRAIN, path, log_dir=output.with_suffix(".log"))
    return logged(output)


@pytest.fixture(scope="module")
def controls(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Steps]:
    """By the command that users give, on one process."""
    folder = tmp_path_factory.mktemp("controls")
    return {
        seed: by_command(seed, data, folder / str(number), **APART)
        for number, seed in enumerate(MODELS)
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_one_process(
    layout: str, data: Path, controls: dict[str, Steps], tmp_path: Path
) -> None:
    processes, options = LAYOUTS[layout]
    outputs = [tmp_path / str(number) for number, _ in enumerate(MODELS)]
    cases = tmp_path / "cases.json"
    paths = [
        config(seed, data, output, **APART, **options)
        for seed, output in zip(MODELS, outputs, strict=True)
    ]
    cases.write_text(json.dumps([str(path) for path in paths]))
    run_job(WORKER, cases, processes=processes, log_dir=tmp_path / "log")
    for seed, output in zip(MODELS, outputs, strict=True):
        steps = logged(output)
        assert len(steps) == len(controls[seed]) == STEPS
        for ours, expected in zip(steps, controls[seed], strict=True):
            for metric in ("loss", "global_norm"):
                assert ours[metric] == pytest.approx(expected[metric], rel=1e-5), (seed, metric)


def test_the_mask_changes_the_loss(data: Path, controls: dict[str, Steps], tmp_path: Path) -> None:
    """On the same samples; so the layouts above have something to agree on."""
    seed = MODELS[0]
    one = by_command(seed, data, tmp_path / "one", reset_position_ids=True)
    assert one[0]["loss"] != pytest.approx(controls[seed][0]["loss"], rel=1e-4)
