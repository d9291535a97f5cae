"""Published configs and weights of BLOOM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_pretrain.checkpoint.load import load_weights
from llm_pretrain.checkpoint.write_weights import as_published, write_weights
from llm_pretrain.config import ConfigError
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import FAMILIES
from llm_pretrain.parallel.sharding.pieces import initialize
from tests.models.seeds import seeds_of
from tests.peers.comparison import whole_tensors

bloom = FAMILIES["bloom"]
SEEDS = seeds_of("bloom")

FIRST_RELEASE = {
    "model_type": "bloom",
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_dropout": 0.0,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "masked_softmax_fusion": True,
    "n_embed": 4096,
    "n_inner": None,
    "n_layer": 30,
    "num_attention_heads": 32,
    "offset_alibi": 100,
    "pad_token_id": 3,
    "pretraining_tp": 4,
    "seq_length": 2048,
    "skip_bias_add": True,
    "skip_bias_add_qkv": False,
    "unk_token_id": 0,
    "vocab_size": 250880,
}


def read(**changes: Any) -> ModelConfig:
    return bloom.read_config({**SEEDS["tiny/bloom"], **changes}, "config.json")


def test_names_of_the_first_release() -> None:
    name = "bigscience/bloom-7b1"
    assert bloom.read_config(FIRST_RELEASE, "") == bloom.read_config(SEEDS[name], name)


def test_dropout_reaches_the_model() -> None:
    config = read(hidden_dropout=0.1, attention_dropout=0.2)
    assert (config.hidden_dropout, config.attention_dropout) == (0.1, 0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"apply_residual_connection_post_layernorm": True}, "computes False only"),
        ({"n_head": 7}, "hidden_size: 64 is not a multiple of 7 attention heads"),
        ({"n_inner": 200}, "n_inner: 200: BLOOM's is 4 x hidden_size, 256"),
        ({"n_layer": None}, "num_hidden_layers: is missing"),
    ],
)
def test_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize("name", SEEDS)
def test_written_config_is_read_as_the_same_model(name: str) -> None:
    config = bloom.read_config(SEEDS[name], name)
    assert bloom.read_config(bloom.write_config(config), name) == config


def test_query_key_and_value_stand_side_by_side_for_every_head() -> None:
    model = Decoder(read())
    initialize(model, seed=1)
    tensors = dict(whole_tensors(model))
    packed = dict(as_published(tensors.items(), model.config))
    found = packed["transformer.h.2.self_attention.query_key_value.weight"].reshape(8, 3, 8, 64)
    for number, kind in enumerate(("query", "key", "value")):
        expected = tensors[f"layers.2.attention.{kind}.weight"].T.reshape(8, 8, 64)
        np.testing.assert_array_equal(found[:, number], expected)


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_weights_are_read_as_they_were_written(tmp_path: Path, prefix: str) -> None:
    """The first published files are those of a model without head, whose names have no prefix."""
    model = Decoder(read(fuse_attention_qkv=True))
    initialize(model, seed=1)
    write_weights(whole_tensors(model), model.config, tmp_path)
    file = tmp_path / "model.safetensors"
    renamed = {prefix + name.removeprefix("transformer."): x for name, x in load_file(file).items()}
    save_file(renamed, file, {"format": "pt"})
    loaded = Decoder(read())
    load_weights(loaded, loaded.config, tmp_path)
    before, after = dict(whole_tensors(model)), dict(whole_tensors(loaded))
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])
