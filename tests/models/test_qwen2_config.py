"""Published configs of Qwen2, Qwen2.5 and Qwen3: read, refused, written; tensors."""

from __future__ import annotations

from typing import Any

import pytest

from llm_pretrain.config import ConfigError
from llm_pretrain.config.model_config import ModelConfig, Rope
from llm_pretrain.models.families import FAMILIES
from tests.models.seeds import seeds_of

SEEDS = seeds_of("qwen2", "qwen3")

SMALL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def read(family: str, **changes: Any) -> ModelConfig:
    return FAMILIES[family].read_config({"model_type": family, **SMALL, **changes}, "config.json")


def test_qwen2_has_biases_on_queries_keys_and_values() -> None:
    config = read("qwen2", rope_theta=1e6, sliding_window=4096, max_window_layers=1)
    assert config.rope == Rope(1e6)
    assert config.head_dim == 8
    assert config.max_position_embeddings == 32768
    biases = [name for name in config.tensor_shapes() if name.endswith("bias")]
    assert sorted(biases[:3]) == [f"layers.0.attention.{x}.bias" for x in ("key", "query", "value")]
    assert len(biases) == 6


def test_qwen2_has_no_setting_for_its_biases() -> None:
    """transformers and PaddleNLP take no notice of "attention_bias" in its files."""
    assert (
        read("qwen2", attention_bias=True) == read("qwen2") == read("qwen2", attention_bias=False)
    )


def test_qwen3_has_norms_of_heads() -> None:
    config = read("qwen3")
    assert config.head_dim == 128
    shapes = config.tensor_shapes()
    assert shapes["layers.1.attention.key_norm.weight"] == (128,)
    assert not any(name.endswith("bias") for name in shapes)
    assert "layers.1.attention.output.bias" in read("qwen3", attention_bias=True).tensor_shapes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_sliding_window": True}, "use_sliding_window: True: this program computes False"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types: sliding windows"),
        ({"rope_scaling": {"type": "mrope"}}, "rope_scaling.rope_type: 'mrope'"),
        ({"rope_scaling_type": "linear"}, "rope_scaling_type: 'linear': this is not supported"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: 3 does not divide 4"),
    ],
)
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_refused_with_the_reason(family: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(family, **changes)
    assert f"config.json: {message}" in str(error.value)


@pytest.mark.parametrize("name", SEEDS)
def test_written_config_is_read_as_the_same_model(name: str) -> None:
    family = FAMILIES[SEEDS[name]["model_type"]]
    config = family.read_config(SEEDS[name], name)
    assert family.read_config(family.write_config(config), name) == config
