"""Published configs of LLaMA: read, refused, written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_pretrain.config import ConfigError
from llm_pretrain.config.model_config import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    Rope,
    YarnScaling,
)
from llm_pretrain.models.families import FAMILIES, family_of
from llm_pretrain.models.position import rotary_frequencies
from tests.models.seeds import seeds_of

baichuan = FAMILIES["baichuan"]
llama = FAMILIES["llama"]
SEEDS = seeds_of("llama")

OLD = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def read(**changes: Any) -> Any:
    published = {**OLD, **changes}
    return llama.read_config({k: v for k, v in published.items() if v != "absent"}, "config.json")


def problems(**changes: Any) -> str:
    with pytest.raises(ConfigError) as error:
        read(**changes)
    return str(error.value)


def test_what_the_first_llama_leaves_out() -> None:
    config = read()
    assert config.num_key_value_heads == 4
    assert config.head_dim == 8
    assert config.rope == Rope(10000.0)
    assert config.norm_eps == 1e-6
    assert config.max_position_embeddings == 2048
    assert not config.tie_word_embeddings
    assert not config.attention_bias
    assert not config.mlp_bias
    assert config.attention_dropout == 0


def test_every_key_reaches_the_model() -> None:
    config = read(
        num_key_value_heads=2, head_dim=6, rms_norm_eps=1e-5, tie_word_embeddings=True,
        attention_bias=True, mlp_bias=True, initializer_range=0.01, attention_dropout=0.1,
        fuse_attention_qkv=True, fuse_attention_ffn=True,
        bos_token_id=1, eos_token_id=[2, 3], pad_token_id=-1, max_position_embeddings=77,
    )  # fmt: skip
    assert (config.num_key_value_heads, config.head_dim) == (2, 6)
    assert (config.norm_eps, config.initializer_range) == (1e-5, 0.01)
    assert config.tie_word_embeddings
    assert config.attention_bias
    assert config.mlp_bias
    assert config.attention_dropout == 0.1
    assert config.fuse_attention_qkv
    assert config.fuse_attention_ffn
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, (2, 3), None)
    assert config.max_position_embeddings == 77


LLAMA_3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("published", "rope"),
    [
        ({"rope_theta": 5e5}, Rope(5e5)),
        ({"rope_scaling": None}, Rope()),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, Rope(5e5)),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, Rope(10000.0, LinearScaling(2.0))),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
            Rope(5e5, DynamicScaling(4.0)),
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", "original_max_position_embeddings": 64,
                              **LLAMA_3}},
            Rope(10000.0, Llama3Scaling(8.0, 1.0, 4.0, 64)),
        ),
        (
            {"max_position_embeddings": 96, "rope_parameters": {"rope_type": "llama3", **LLAMA_3}},
            Rope(10000.0, Llama3Scaling(8.0, 1.0, 4.0, 96)),
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 100.0, "factor": 2.0,
                                 "original_max_position_embeddings": 64, "mscale": 0.5,
                                 "attention_factor": None, "truncate": False}},
            Rope(100.0, YarnScaling(2.0, 64, mscale=0.5, truncate=False)),
        ),
    ],
)  # fmt: skip
def test_rotary_embedding_in_both_spellings(published: dict[str, Any], rope: Rope) -> None:
    assert read(**published).rope == rope


@pytest.mark.parametrize(
    ("published", "rope"),
    [
        ({"rope_scaling_type": None, "rope_scaling_factor": 2.0}, Rope()),
        ({"rope_scaling_type": "linear"}, Rope(10000.0, LinearScaling(1.0))),
        (
            {"rope_scaling_type": "linear", "rope_scaling_factor": 2, "rope_theta": 5e5},
            Rope(5e5, LinearScaling(2.0)),
        ),
        (
            {"rope_scaling_type": "dynamic_ntk", "rope_scaling_factor": 4.0},
            Rope(10000.0, DynamicScaling(4.0)),
        ),
        (
            {"rope_scaling_type": "linear", "rope_scaling_factor": 2.0,
             "rope_scaling": {"type": "linear", "factor": 2.0}},
            Rope(10000.0, LinearScaling(2.0)),
        ),
        (
            {"rope_scaling_type": "linear", "rope_scaling_factor": 2.0,
             "rope_scaling": {"rope_type": "llama3", "original_max_position_embeddings": 64,
                              **LLAMA_3}},
            Rope(10000.0, Llama3Scaling(8.0, 1.0, 4.0, 64)),
        ),
    ],
)  # fmt: skip
def test_scaling_in_paddlenlps_spelling(published: dict[str, Any], rope: Rope) -> None:
    assert read(**published).rope == rope


@pytest.mark.parametrize(("heads", "growth"), [(4, 8 ** (8 / 6)), (8, 8 ** (4 / 2))])
def test_ntk_is_a_larger_base(heads: int, growth: float) -> None:
    """s^(D/(D-2)) times larger for heads of D."""
    published = {"rope_scaling_type": "ntk", "rope_scaling_factor": 8.0}
    rope = read(num_attention_heads=heads, rope_theta=500.0, **published).rope
    assert rope.scaling is None
    assert rope.theta == pytest.approx(500 * growth)


def test_ntk_of_heads_of_one_pair() -> None:
    """Which turns by one radian per position, whatever the base."""
    published = {"rope_scaling_type": "ntk", "rope_scaling_factor": 8.0}
    config = read(hidden_size=8, **published)
    assert config.head_dim == 2
    frequencies, _ = rotary_frequencies(config.rope, 2, 2048, 16)
    np.testing.assert_array_equal(frequencies, [1.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu': this program computes 'silu'"),
        ({"alibi": "yes"}, "alibi: 'yes' is neither true nor false"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_scaling.rope_type"),
        ({"rope_parameters": {"rope_type": "axial"}}, "default, linear, dynamic, llama3, yarn"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor: is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "0.5 is below 1"),
        ({"rope_scaling": 2.0}, "rope_scaling: 2.0 is not an object"),
        ({"rope_scaling_type": "yarn"}, "rope_scaling_type: 'yarn' is none of linear, ntk,"),
        (
            {"rope_scaling_type": "ntk", "rope_scaling_factor": 0.5},
            "rope_scaling_factor: 0.5 is below 1",
        ),
        (
            {"rope_scaling_type": "linear", "rope_scaling_factor": 2.0,
             "rope_scaling": {"type": "linear", "factor": 4.0}},
            "rope_scaling_type: 'linear' by 2.0 is not what rope_scaling or rope_parameters says",
        ),
        ({"rope_scaling_type": ["ntk"]}, "rope_scaling_type: ['ntk'] is none of linear, ntk"),
        (
            {"rope_scaling_type": "linear", "rope_parameters": {"rope_type": "llama3", **LLAMA_3}},
            "rope_scaling_type: 'linear' by 1.0 is not what rope_scaling or rope_parameters says",
        ),
        (
            {"rope_scaling_type": "ntk", "rope_parameters": {"rope_type": "yarn", "factor": 1}},
            "rope_scaling_type: 'ntk' by 1.0 is not what rope_scaling or rope_parameters says",
        ),
        ({"rope_theta": 1.0}, "rope_theta: 1.0 is not above 1"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_parameters.rope_theta: 0.0 is not above 1"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0, "beta_fast": 0}},
            "rope_scaling.beta_slow: 1.0 must lie between 0 and beta_fast",
        ),
        (
            {"rope_scaling": {"type": "llama3", **LLAMA_3, "high_freq_factor": 1.0}},
            "low_freq_factor: 1.0 must lie between 0 and high_freq_factor",
        ),
        ({"hidden_size": "absent"}, "hidden_size: is missing"),
        ({"hidden_size": "32"}, "hidden_size: '32' is not a whole number"),
        ({"hidden_size": 34}, "34 is not a multiple of num_attention_heads (4)"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: 0 is not a whole number above zero"),
        ({"num_hidden_layers": True}, "num_hidden_layers: True"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: 3 does not divide 4"),
        ({"head_dim": 7}, "head_dim: 7 is odd"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps: 'small' is not a number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps: nan"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings: 1 is neither true nor false"),
        ({"attention_dropout": 1.0}, "attention_dropout: 1.0 is not a probability"),
        ({"eos_token_id": ["</s>"]}, "eos_token_id"),
        ({"bos_token_id": 1.5}, "bos_token_id: 1.5 is not a token id"),
    ],
)  # fmt: skip
def test_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    text = problems(**changes)
    assert "config.json: " in text
    assert message in text


def test_all_problems_at_once() -> None:
    text = problems(hidden_act="relu", vocab_size=-1, rope_scaling={"type": "su"})
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize("name", SEEDS)
def test_written_config_is_read_as_the_same_model(name: str) -> None:
    config = llama.read_config(SEEDS[name], name)
    assert llama.read_config(llama.write_config(config), name) == config


def test_written_scalings_are_read_as_the_same_model() -> None:
    for scaling in (
        {"type": "linear", "factor": 2.0},
        {"type": "dynamic", "factor": 2.0},
        {"type": "yarn", "factor": 2.0, "mscale": 0.7, "beta_fast": 20},
    ):
        config = read(rope_scaling=scaling, eos_token_id=[1, 2], mlp_bias=True)
        assert llama.read_config(llama.write_config(config), "again") == config


def test_linear_biases_take_the_place_of_rotary_embedding() -> None:
    config = read(alibi=True, head_dim=7)
    assert config.alibi
    assert config.rope is None
    assert llama.read_config(llama.write_config(config), "again") == config


def test_paddlenlps_llama_with_linear_biases_is_a_baichuan() -> None:
    """transformers' LLaMA would compute rotary embedding instead."""
    config = read(alibi=True)
    written = family_of(config).write_config(config)
    assert written["architectures"] == ["BaichuanForCausalLM"]
    assert baichuan.read_config(written, "again") == config
