"""Which config a run trains: built-in names, directories, and the run's changes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.config import ConfigError, ModelArguments
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families import FAMILIES, SEEDS, family_of, load_model_config

SMALL = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
}


def load(name: str | Path, **arguments: Any) -> ModelConfig:
    sizes = {key: arguments.pop(key, None) for key in ("tokenizer_vocab_size", "max_seq_length")}
    return load_model_config(
        str(name),
        ModelArguments(model_name_or_path=str(name), **arguments),
        tokenizer_vocab_size=sizes["tokenizer_vocab_size"],
        max_seq_length=sizes["max_seq_length"] or 16,
    )


def directory_with(tmp_path: Path, **changes: Any) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({**SMALL, **changes}))
    return tmp_path


@pytest.mark.parametrize("name", SEEDS)
def test_every_built_in_config_is_whole(name: str) -> None:
    config = load(name)
    assert family_of(config) is FAMILIES[SEEDS[name]["model_type"]]
    assert config.num_attention_heads % config.num_key_value_heads == 0


def test_vocabularies_that_differ_from_llamas() -> None:
    assert load("idea-ccnl/ziya-llama-13b-v1").vocab_size == 39424
    assert load("linly-ai/chinese-llama-2-7b").vocab_size == 40076
    assert load("meta-llama/Meta-Llama-3-8B").vocab_size == 128256


def test_unknown_name_lists_near_ones() -> None:
    with pytest.raises(ConfigError) as error:
        load("meta-llama/llama-2-7B-hf ")
    message = str(error.value)
    assert "meta-llama/Llama-2-7b-hf" in message
    assert "directory" in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/nowhere/model", "there is no directory /nowhere/model."),
        ("../model", "there is no directory ../model."),
        ("zzzzzzzzzz", "Known names: those that docs/models.md lists."),
    ],
)
def test_an_unknown_name_is_a_sentence(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(name)


def test_directory(tmp_path: Path) -> None:
    assert load(directory_with(tmp_path)).hidden_size == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "without a config.json"),
        ("{", "can't be read as JSON"),
        ("[]", "must hold one JSON object"),
        ("{}", "model_type: None is not supported"),
        ('{"model_type": []}', "model_type: \\[\\] is not supported"),
        ('{"model_type": "mamba"}', "model_type: 'mamba' is not supported; supported: llama"),
    ],
)
def test_unusable_directory(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=message.replace("{", r"\{")):
        load(tmp_path)


def test_random_weights_get_room_for_samples_and_tokenizer(tmp_path: Path) -> None:
    config = load(directory_with(tmp_path), tokenizer_vocab_size=129, max_seq_length=65)
    assert config.vocab_size == 256
    assert config.max_position_embeddings == 65


def test_room_is_never_taken_away(tmp_path: Path) -> None:
    config = load(directory_with(tmp_path, vocab_size=300), tokenizer_vocab_size=129)
    assert config.vocab_size == 300
    assert config.max_position_embeddings == 64


@pytest.mark.parametrize(
    ("tokens", "changes", "rows"),
    [
        (None, {}, 100),
        (100, {"resize_vocabulary": True}, 100),
        (129, {}, 129),
        (129, {"resize_vocabulary": True}, 256),
        (129, {"resize_vocabulary": True, "vocab_size": 130}, 130),
        (129, {"vocab_size": 120, "resize_vocabulary": True}, 256),
    ],
)
def test_continued_training_keeps_the_tables_if_they_have_room(
    tmp_path: Path, tokens: int | None, changes: dict[str, Any], rows: int
) -> None:
    config = load(
        directory_with(tmp_path),
        continue_training=True,
        tokenizer_vocab_size=tokens,
        max_seq_length=65,
        **changes,
    )
    assert config.vocab_size == rows
    assert config.max_position_embeddings == 64


def test_changes_of_the_run(tmp_path: Path) -> None:
    config = load(
        directory_with(tmp_path, fuse_attention_ffn=True),
        num_hidden_layers=1,
        intermediate_size=40,
        fuse_attention_qkv=True,
    )
    assert (config.num_hidden_layers, config.intermediate_size) == (1, 40)
    assert config.fuse_attention_qkv
    assert config.fuse_attention_ffn
    assert not load(tmp_path, fuse_attention_ffn=False).fuse_attention_ffn


def test_changed_heads_change_what_follows_from_them(tmp_path: Path) -> None:
    config = load(directory_with(tmp_path), num_attention_heads=2)
    assert (config.num_key_value_heads, config.head_dim) == (2, 16)


def test_changed_heads_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="changed by num_attention_heads: hidden_size"):
        load(directory_with(tmp_path), num_attention_heads=5)


def test_dropout_arguments_do_not_reach_llama(tmp_path: Path) -> None:
    """LLaMA has no such dropout, in a config that this program has written neither."""
    config = load(directory_with(tmp_path, attention_dropout=0.2), hidden_dropout_prob=0.3)
    assert (config.hidden_dropout, config.attention_dropout) == (0, 0.2)
    written = tmp_path / "written"
    written.mkdir()
    (written / "config.json").write_text(json.dumps(family_of(config).write_config(config)))
    assert load(written, hidden_dropout_prob=0.3) == config


def test_paddle_is_not_imported() -> None:
    """So that `check` answers at once."""
    code = "import sys, llm_pretrain.models.families; sys.exit('paddle' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize(
    "name", [name for name in SEEDS if name.startswith(("tiny/", "__internal_testing__/"))]
)
def test_a_run_may_set_the_range_of_random_weights(name: str) -> None:
    unchanged = load_model_config(name, ModelArguments(), max_seq_length=64)
    changed = load_model_config(name, ModelArguments(initializer_range=0.007), max_seq_length=64)
    assert changed == replace(unchanged, initializer_range=0.007)
