"""Published configs and weights of GPT-2 and GPT-3, and how their weights begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.checkpoint.load import load_weights
from llm_pretrain.checkpoint.write_weights import as_published, write_weights
from llm_pretrain.config import ConfigError, ModelArguments
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import FAMILIES, load_model_config
from llm_pretrain.parallel.sharding.pieces import initialize
from tests.models.seeds import seeds_of
from tests.peers.comparison import whole_tensors

gpt = FAMILIES["gpt"]
SEEDS = seeds_of("gpt", "gpt2")


def read(name: str = "tiny/gpt3", **changes: Any) -> ModelConfig:
    return gpt.read_config({**SEEDS[name], **changes}, "config.json")


def run_model(name: str, **arguments: Any) -> ModelConfig:
    arguments = {"model_name_or_path": name, **arguments}
    return load_model_config(name, ModelArguments(**arguments), max_seq_length=16)


def test_both_published_head_counts_of_13b() -> None:
    assert read("gpt3-13B-en").num_attention_heads == 40
    assert read("gpt3-13B-en-128-heads").num_attention_heads == 128


def test_what_older_configs_leave_out() -> None:
    published = {"model_type": "gpt2", "vocab_size": 90, "n_embd": 20, "n_layer": 1, "n_head": 2}
    config = gpt.read_config(published, "config.json")
    assert (config.intermediate_size, config.max_position_embeddings) == (80, 1024)
    assert (config.norm_eps, config.initializer_range) == (1e-5, 0.02)
    dropouts = (config.embedding_dropout, config.hidden_dropout, config.attention_dropout)
    assert dropouts == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("name", ["tiny/gpt3", "tiny/gpt2"])
def test_sizes_and_dropouts_of_the_run(name: str) -> None:
    config = run_model(
        name, num_hidden_layers=3, hidden_size=48, intermediate_size=50, num_attention_heads=6,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.3,
    )  # fmt: skip
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (3, 48, 50)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (6, 6, 8)
    dropouts = (config.embedding_dropout, config.hidden_dropout, config.attention_dropout)
    assert dropouts == (0.0, 0.0, 0.3)


@pytest.mark.parametrize("name", ["tiny/gpt3", "tiny/gpt2"])
def test_dropouts_are_the_published_ones_where_the_run_has_none(name: str) -> None:
    config = run_model(name)
    dropouts = (config.embedding_dropout, config.hidden_dropout, config.attention_dropout)
    assert dropouts == (0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gpt3-1.3B-en", {"hidden_act": "relu"}, "hidden_act: 'relu': this program computes"),
        ("gpt3-1.3B-en", {"normalize_before": False}, "normalize_before: False"),
        ("gpt3-1.3B-en", {"scale_qk_coeff": 2.0}, "scale_qk_coeff: 2.0"),
        ("gpt3-1.3B-en", {"num_attention_heads": 15}, "2048 is not a multiple of 15"),
        ("gpt2", {"activation_function": "gelu"}, "activation_function: 'gelu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"n_layer": None}, "num_hidden_layers: is missing"),
        ("gpt2", {"resid_pdrop": 1.0}, "resid_pdrop: 1.0 is not a probability"),
    ],
)
def test_refused_with_the_reason(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(name, **changes)
    assert message in str(error.value)


@pytest.mark.parametrize("name", SEEDS)
def test_written_config_is_read_as_the_same_model(name: str) -> None:
    config = read(name)
    published = gpt.write_config(config)
    assert published["model_type"] == "gpt2"
    assert gpt.read_config(published, name) == config


def test_query_key_and_value_are_thirds_of_one_tensor() -> None:
    model = Decoder(read())
    initialize(model, seed=1)
    tensors = dict(whole_tensors(model))
    packed = dict(as_published(tensors.items(), model.config))
    thirds = np.split(packed["transformer.h.2.attn.c_attn.weight"], 3, axis=1)
    for kind, third in zip(("query", "key", "value"), thirds, strict=True):
        np.testing.assert_array_equal(third, tensors[f"layers.2.attention.{kind}.weight"])


@pytest.mark.parametrize("name", ["tiny/gpt3", "tiny/gpt2"])
def test_weights_are_read_as_they_were_written(name: str, tmp_path: Path) -> None:
    model = Decoder(read(name, fuse_attention_qkv=True))
    initialize(model, seed=1)
    write_weights(whole_tensors(model), model.config, tmp_path)
    loaded = Decoder(read(name))
    load_weights(loaded, loaded.config, tmp_path)
    before, after = dict(whole_tensors(model)), dict(whole_tensors(loaded))
    assert before.keys() == after.keys()
    for tensor, values in before.items():
        np.testing.assert_array_equal(values, after[tensor])


def test_weights_that_end_a_branch_begin_smaller() -> None:
    """GPT-2, section 2.3: by the square root of the number of branches, here two times eight."""
    model = Decoder(read(num_hidden_layers=8, initializer_range=0.04))
    initialize(model, seed=1)
    for name, values in whole_tensors(model):
        if name.endswith(("attention.output.weight", "feed_forward.down.weight")):
            assert values.std() == pytest.approx(0.01, rel=0.05), name
        elif name.endswith("weight") and "norm" not in name:
            assert values.std() == pytest.approx(0.04, rel=0.05), name
