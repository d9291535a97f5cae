"""Which model a run trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.config import load_run_config
from llm_pretrain.config.model_config import Extrapolation
from llm_pretrain.training.preflight import (
    depth_notices,
    model_config_of,
    tokenizer_notices,
    vocabulary_notices,
    vocabulary_problems,
)
from tests.checkpoint.models import write_random_model
from tests.small_runs import small_config, write_config, write_tokenizer

QWEN = {
    "model_type": "qwen",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "seq_length": 16,
}


@pytest.mark.parametrize(("do_train", "length"), [(True, 32), (False, 16)])
def test_what_is_trained_on_is_no_extrapolation(
    do_train: bool, length: int, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    config = small_config(
        tmp_path, tmp_path, tmp_path / "output", do_train=do_train, do_eval=True, max_seq_length=32
    )
    run = load_run_config(write_config(tmp_path / "run.json", config))
    assert model_config_of(run).extrapolation == Extrapolation(length)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "no tokenizer in "),
        ({"tokenizer.json": "{}"}, None),
        (
            {"tokenizer_config.json": '{"tokenizer_class": "BertTokenizer"}', "vocab.txt": "[UNK]"},
            "is a BertTokenizer, which only PaddleNLP reads",
        ),
    ],
    ids=["none", "one that is read", "PaddleNLP's"],
)
def test_a_tokenizer_that_does_not_count_is_said(
    files: dict[str, str], expected: str | None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    config = small_config(tmp_path, tmp_path, tmp_path / "output")
    notices = tokenizer_notices(load_run_config(write_config(tmp_path / "run.json", config)))
    assert len(notices) == (expected is not None)
    assert all(expected and expected in notice for notice in notices)


@pytest.mark.parametrize(
    ("changes", "problem", "notice"),
    [
        ({}, "has 131 tokens, more than the 130 rows of the weights in", None),
        ({"vocab_size": 140}, "vocab_size: 140 is more than the 130 rows", None),
        ({"resize_vocabulary": True}, None, "the model has 256 rows where the weights in"),
        ({"resize_vocabulary": True, "vocab_size": 140}, None, "has 140 rows where"),
        (
            {"vocab_size": 131, "resize_vocabulary": True, "continue_training": False},
            None,
            "resize_vocabulary: no effect",
        ),
        ({"continue_training": False}, None, None),
        ({"tokenizer_name_or_path": None}, None, None),
        (
            {"tokenizer_name_or_path": None, "vocab_size": 100, "resize_vocabulary": True},
            "the model has 100 rows and the weights in",
            None,
        ),
    ],
)
def test_a_table_smaller_than_the_tokenizer(
    changes: dict[str, Any], problem: str | None, notice: str | None, tmp_path: Path
) -> None:
    write_random_model("tiny/llama", tmp_path / "model")
    write_tokenizer(tmp_path / "tokenizer", tokens=131)
    config = small_config(
        tmp_path / "model",
        tmp_path,
        tmp_path / "output",
        **{"tokenizer_name_or_path": str(tmp_path / "tokenizer"), "continue_training": True}
        | changes,
    )
    run = load_run_config(write_config(tmp_path / "run.json", config))
    model = model_config_of(run)
    for found, expected in (
        (problems := vocabulary_problems(run, model), problem),
        ([] if problems else vocabulary_notices(run, model), notice),
    ):
        assert len(found) == (expected is not None), found
        assert all(expected and expected in line for line in found)
        assert not found or "resize_vocabulary" in found[0] or "vocab_size" in found[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_hidden_layers": 1, "continue_training": True}, "first 1 of the model's 2 layers"),
        ({"num_hidden_layers": 2, "continue_training": True}, None),
        ({"num_hidden_layers": 1}, None),
        ({"continue_training": True}, None),
    ],
)
def test_layers_that_are_left_out_are_said(
    changes: dict[str, int], expected: str | None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    config = small_config(tmp_path, tmp_path, tmp_path / "output", **changes)
    notices = depth_notices(load_run_config(write_config(tmp_path / "run.json", config)))
    assert len(notices) == (expected is not None)
    assert all(expected and expected in notice for notice in notices)
