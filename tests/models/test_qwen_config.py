"""The first Qwen's published configs and weights: read, refused, written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.checkpoint.load import load_weights
from llm_pretrain.checkpoint.write_weights import write_weights
from llm_pretrain.config import ConfigError
from llm_pretrain.config.model_config import Extrapolation, ModelConfig, Rope
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import FAMILIES
from tests.models.seeds import seeds_of
from tests.peers.comparison import Case, whole_tensors

qwen = FAMILIES["qwen"]
SEEDS = seeds_of("qwen")

SMALL = {
    "model_type": "qwen",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def read(**changes: Any) -> ModelConfig:
    return qwen.read_config({**SMALL, **changes}, "config.json")


def test_what_is_left_out() -> None:
    config = read()
    assert (config.num_key_value_heads, config.head_dim) == (4, 8)
    assert config.rope == Rope(10000.0)
    assert config.extrapolation == Extrapolation(2048)
    assert config.norm_eps == 1e-6
    assert config.max_position_embeddings == 8192


def test_every_key_reaches_the_model() -> None:
    config = read(
        kv_channels=8, rotary_emb_base=500, layer_norm_epsilon=1e-5, max_position_embeddings=77,
        seq_length=55, use_logn_attn=False, tie_word_embeddings=True, initializer_range=0.01,
        emb_dropout_prob=0.2, attn_dropout_prob=0.1, fuse_attention_qkv=True,
        fuse_attention_ffn=True, eos_token_id=3,
    )  # fmt: skip
    assert config.intermediate_size == 24
    assert config.rope == Rope(500.0)
    assert (config.norm_eps, config.max_position_embeddings) == (1e-5, 77)
    assert config.extrapolation == Extrapolation(55, scaled_queries=False)
    assert config.tie_word_embeddings
    assert config.initializer_range == 0.01
    assert (config.embedding_dropout, config.attention_dropout) == (0.2, 0.1)
    assert config.fuse_attention_qkv
    assert config.fuse_attention_ffn
    assert config.eos_token_id == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"no_bias": False}, "no_bias: False: this program computes True"),
        ({"rotary_pct": 0.5}, "rotary_pct: 0.5"),
        ({"kv_channels": 16}, "kv_channels: 4 heads of 16 do not fill hidden_size (32)"),
        ({"hidden_size": 28}, "kv_channels: 7 is odd"),
        ({"intermediate_size": 47}, "intermediate_size: 47 is odd"),
        ({"rotary_emb_base": 1}, "rotary_emb_base: 1.0 is not above 1"),
        ({"seq_length": 1}, "seq_length: samples of one token"),
        ({"use_dynamic_ntk": "yes"}, "use_dynamic_ntk: 'yes' is neither true nor false"),
    ],
)
def test_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(**changes)
    assert f"config.json: {message}" in str(error.value)


@pytest.mark.parametrize("name", SEEDS)
def test_written_config_is_read_as_the_same_model(name: str) -> None:
    config = qwen.read_config(SEEDS[name], name)
    assert qwen.read_config(qwen.write_config(config), name) == config


def test_written_settings_are_read_as_the_same_model() -> None:
    config = read(use_dynamic_ntk=False, use_logn_attn=False, attn_dropout_prob=0.1, seq_length=9)
    assert config.extrapolation is None
    assert qwen.read_config(qwen.write_config(config), "again") == config


@pytest.mark.parametrize("is_fused", [True, False])
def test_weights_are_read_as_they_were_written(is_fused: bool, tmp_path: Path) -> None:
    fusions = {"fuse_attention_qkv": is_fused, "fuse_attention_ffn": is_fused}
    model, _ = Case(SMALL, fusions).build()
    write_weights(whole_tensors(model), model.config, tmp_path)
    loaded = Decoder(read())
    load_weights(loaded, loaded.config, tmp_path)
    before, after = dict(whole_tensors(model)), dict(whole_tensors(loaded))
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])
