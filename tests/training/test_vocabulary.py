"""Going on from weights with a tokenizer that has more tokens than they have rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.checkpoint.published_weights import PublishedWeights
from llm_pretrain.checkpoint.save import save_checkpoint
from llm_pretrain.checkpoint.write_weights import write_weights
from llm_pretrain.models.families import read_model_config
from llm_pretrain.training import saves
from llm_pretrain.training.run import run
from tests.checkpoint.models import random_tensors
from tests.launching import RUN_PRETRAIN, logged, run_job
from tests.small_runs import (
    VOCAB_SIZE,
    small_config,
    write_config,
    write_data,
    write_model,
    write_tokenizer,
)

TOKENS = VOCAB_SIZE + 3
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {}),
    "tp2": (2, {"tensor_parallel_degree": 2}),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With data, weights of VOCAB_SIZE rows, and a tokenizer of TOKENS tokens."""
    config = read_model_config(write_model(tmp_path / "model"))
    tensors = random_tensors(config).items()
    write_weights(((name, 0.05 * values) for name, values in tensors), config, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text("{}")
    write_tokenizer(tmp_path / "tokenizer", TOKENS)
    (tmp_path / "tokenizer" / "chat_template.jinja").write_text("{{ messages }}")
    write_data(tmp_path / "data")
    return tmp_path


def config_in(folder: Path, output_dir: Path, **changes: Any) -> Path:
    config = small_config(
        folder / "model",
        folder / "data",
        output_dir,
        continue_training=True,
        tokenizer_name_or_path=str(folder / "tokenizer"),
        **{"max_steps": 2, "save_strategy": "steps", "save_steps": 1} | changes,
    )
    return write_config(output_dir.with_suffix(".json"), config)


def test_too_many_tokens_are_an_error_that_says_both_numbers(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([str(config_in(folder, folder / "refused"))]) == 1
    said = capsys.readouterr().err
    assert f"has {TOKENS} tokens, more than the {VOCAB_SIZE} rows" in said
    assert "resize_vocabulary" in said


def test_a_grown_table_is_the_same_in_every_layout_and_saved_with_what_belongs_to_it(
    folder: Path,
) -> None:
    curves = {}
    for name, (processes, changes) in LAYOUTS.items():
        output = folder / name
        config = config_in(folder, output, resize_vocabulary=True, **changes)
        run_job(RUN_PRETRAIN, config, processes=processes, log_dir=folder / f"log-{name}")
        curves[name] = [line["loss"] for line in logged(output)]
        for saved in (output, output / "checkpoint-1"):
            assert json.loads((saved / "config.json").read_text())["vocab_size"] == 256
            for file in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
                assert (saved / file).is_file(), file
    assert curves["tp2"] == pytest.approx(curves["one"], rel=1e-5)
    tables = [
        PublishedWeights(folder / name, read_model_config(folder / name)).read(
            "embedding.weight", (slice(0, 256), slice(0, 64))
        )
        for name in LAYOUTS
    ]
    np.testing.assert_allclose(*tables, rtol=0, atol=1e-5)
    assert tables[0][TOKENS:].std() == pytest.approx(0.05, rel=0.1), "the initializer's"


def test_a_tokenizer_that_vanishes_is_no_reason_to_lose_a_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    template = folder / "tokenizer" / "chat_template.jinja"

    def save_and_lose_the_template(*arguments: Any, **options: Any) -> None:
        save_checkpoint(*arguments, **options)
        template.unlink(missing_ok=True)

    monkeypatch.setattr(saves, "save_checkpoint", save_and_lose_the_template)
    output = folder / "lost"
    assert run([str(config_in(folder, output, resize_vocabulary=True, max_steps=3))]) == 0
    assert (output / "checkpoint-1" / template.name).is_file()
    assert (output / "checkpoint-3" / "tokenizer.json").is_file()
    assert (output / "tokenizer.json").is_file()
    assert capsys.readouterr().out.count(f"warning: {template} has vanished") == 1
