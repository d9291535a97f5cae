"""Every architecture learns a text by heart, cut by tensor and pipeline parallelism too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.data import IndexedWriter
from llm_pretrain.models.families import CAPABILITIES, FAMILIES, SEEDS, read_model_config
from tests.launching import logged, run_job
from tests.small_runs import small_config, write_config

WORKER = Path(__file__).parents[1] / "parity" / "worker.py"
LENGTH = 32


def write_text(directory: Path) -> Path:
    """A text that repeats itself after the length of a sample, so that all samples are the same."""
    with IndexedWriter(directory / "text", np.uint16) as writer:
        writer.add_document(np.tile(np.random.default_rng(1).integers(0, 120, LENGTH), 2))
    return directory


def write_model_without_dropout(seed: str, directory: Path) -> Path:
    family = FAMILIES[SEEDS[seed]["model_type"]]
    kinds = ("embedding_dropout", "hidden_dropout", "attention_dropout")
    config = replace(family.read_config(SEEDS[seed], seed), **dict.fromkeys(kinds, 0.0))
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(family.write_config(config)))
    return directory


def learning(model: Path) -> dict[str, Any]:
    """Every step cuts other blanks, so that a model which fills them has more to learn."""
    if read_model_config(model).blank_infilling is None:
        return {"max_steps": 45, "learning_rate": 1e-2, "per_device_train_batch_size": 1}
    return {"max_steps": 100, "learning_rate": 6e-3, "per_device_train_batch_size": 4}


@pytest.mark.slow
def test_overfits_in_two_stages_of_two_tensor_ranks(tmp_path: Path) -> None:
    data = write_text(tmp_path / "data")
    outputs, paths = {}, []
    for seed in sorted(set(CAPABILITIES.values())):
        model = write_model_without_dropout(seed, tmp_path / "models" / seed)
        outputs[seed] = tmp_path / "runs" / seed
        config = small_config(
            model,
            data,
            outputs[seed],
            split="1,0,0",
            max_seq_length=LENGTH,
            gradient_accumulation_steps=2,
            tensor_parallel_degree=2,
            pipeline_parallel_degree=2,
            min_learning_rate=1e-3,
            weight_decay=0.0,
            **learning(model),
        )
        paths.append(str(write_config(model / "run.json", config)))
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps(paths))
    run_job(WORKER, cases, processes=4, log_dir=tmp_path / "log", timeout=1800)
    losses = {seed: logged(output)[-1]["loss"] for seed, output in outputs.items()}
    assert {seed: loss for seed, loss in losses.items() if not loss < 0.1} == {}
