"""Published configs and weights of ChatGLM2-6B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.checkpoint.load import load_weights
from llm_pretrain.checkpoint.write_weights import as_published, write_weights
from llm_pretrain.config import ConfigError
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import FAMILIES
from llm_pretrain.parallel.sharding.pieces import initialize
from tests.models.seeds import seeds_of
from tests.peers.comparison import whole_tensors

chatglm2 = FAMILIES["chatglm_v2"]
SEEDS = seeds_of("chatglm_v2")

# As its repository has it.
PUBLISHED = {
    "_name_or_path": "THUDM/chatglm2-6b",
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "ffn_hidden_size": 13696,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 32768,
    "use_cache": True,
    "torch_dtype": "float16",
    "transformers_version": "4.27.1",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def read(name: str = "tiny/chatglm2", **changes: Any) -> ModelConfig:
    return chatglm2.read_config({**SEEDS[name], **changes}, "config.json")


def test_size_is_the_published_one() -> None:
    """12,487,168,064 bytes by the index of the float16 files, 32 frequencies among them."""
    count = read("THUDM/chatglm2-6b").parameter_count()
    assert count == 6_243_584_000
    assert 2 * (count + 32) == 12_487_168_064


def test_published_file() -> None:
    assert chatglm2.read_config(PUBLISHED, "") == read("THUDM/chatglm2-6b")


def test_names_of_paddlenlp() -> None:
    names = {
        "num_layers": "num_hidden_layers",
        "padded_vocab_size": "vocab_size",
        "seq_length": "max_sequence_length",
    }
    theirs = {names.get(key, key): value for key, value in PUBLISHED.items()}
    del theirs["multi_query_attention"]
    assert chatglm2.read_config(theirs, "") == read("THUDM/chatglm2-6b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rmsnorm": False}, "rmsnorm: False: this program computes True only"),
        ({"rope_ratio": 50}, "rope_ratio: 50: this program computes 1 only"),
        ({"kv_channels": 6}, "kv_channels: 6 has no half that is made of pairs"),
        ({"multi_query_group_num": 3}, "3 does not divide 8 attention heads"),
    ],
)
def test_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(**changes)
    assert message in str(error.value)


def test_without_shared_heads() -> None:
    assert read(multi_query_attention=False).num_key_value_heads == 8


@pytest.mark.parametrize("name", SEEDS)
def test_written_config_is_read_as_the_same_model(name: str) -> None:
    config = read(name, add_bias_linear=True, fuse_attention_qkv=True)
    assert chatglm2.read_config(chatglm2.write_config(config), name) == config


def test_where_the_weights_stand() -> None:
    model = Decoder(read())
    initialize(model, seed=1)
    tensors = dict(whole_tensors(model))
    packed = dict(as_published(tensors.items(), model.config))
    layer = "transformer.encoder.layers.3."
    attention = packed[f"{layer}self_attention.query_key_value.weight"]
    for kind, rows in (("query", (0, 64)), ("key", (64, 80)), ("value", (80, 96))):
        expected = tensors[f"layers.3.attention.{kind}.weight"].T
        np.testing.assert_array_equal(attention[slice(*rows)], expected)
    gate_up = packed[f"{layer}mlp.dense_h_to_4h.weight"]
    for kind, rows in (("gate", (0, 128)), ("up", (128, 256))):
        expected = tensors[f"layers.3.feed_forward.{kind}.weight"].T
        np.testing.assert_array_equal(gate_up[slice(*rows)], expected)


def test_weights_are_read_as_they_were_written(tmp_path: Path) -> None:
    model = Decoder(read(fuse_attention_qkv=True, fuse_attention_ffn=True))
    initialize(model, seed=1)
    write_weights(whole_tensors(model), model.config, tmp_path)
    loaded = Decoder(read())
    load_weights(loaded, loaded.config, tmp_path)
    before, after = dict(whole_tensors(model)), dict(whole_tensors(loaded))
    assert before.keys() == after.keys()
    for canonical, values in before.items():
        np.testing.assert_array_equal(values, after[canonical])
