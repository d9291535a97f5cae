"""Published configs and weights of OPT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.checkpoint.load import load_weights
from llm_pretrain.checkpoint.write_weights import write_weights
from llm_pretrain.config import ConfigError, ModelArguments
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import FAMILIES, load_model_config
from llm_pretrain.parallel.sharding.pieces import initialize
from tests.models.seeds import seeds_of
from tests.peers.comparison import whole_tensors

opt = FAMILIES["opt"]
SEEDS = seeds_of("opt")


def read(**changes: Any) -> ModelConfig:
    return opt.read_config({**SEEDS["tiny/opt"], **changes}, "config.json")


def test_embeddings_have_no_dropout() -> None:
    """As the paper has it (section 2.2), and transformers."""
    config = read(dropout=0.2, attention_dropout=0.1)
    assert (config.embedding_dropout, config.hidden_dropout) == (0.0, 0.2)
    assert config.attention_dropout == 0.1


def test_sizes_and_dropouts_of_the_run() -> None:
    arguments = ModelArguments(
        model_name_or_path="tiny/opt", hidden_size=48, intermediate_size=50,
        hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2,
    )  # fmt: skip
    config = load_model_config("tiny/opt", arguments, max_seq_length=16)
    assert (config.hidden_size, config.intermediate_size, config.head_dim) == (48, 50, 6)
    assert (config.hidden_dropout, config.attention_dropout) == (0.3, 0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # As OPT-350m has them.
        ({"do_layer_norm_before": False}, "do_layer_norm_before: False: this program computes"),
        ({"word_embed_proj_dim": 512}, "word_embed_proj_dim: 512: this program computes 64 only"),
        ({"activation_function": "gelu"}, "activation_function: 'gelu'"),
        ({"layerdrop": 0.1}, "layerdrop: 0.1"),
        ({"num_attention_heads": 7}, "hidden_size: 64 is not a multiple of 7 attention heads"),
        ({"ffn_dim": None}, "intermediate_size: is missing"),
    ],
)
def test_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize("name", SEEDS)
def test_written_config_is_read_as_the_same_model(name: str) -> None:
    config = opt.read_config(SEEDS[name], name)
    assert opt.read_config(opt.write_config(config), name) == config


def test_weights_are_read_as_they_were_written(tmp_path: Path) -> None:
    model = Decoder(read(fuse_attention_qkv=True))
    initialize(model, seed=1)
    write_weights(whole_tensors(model), model.config, tmp_path)
    loaded = Decoder(read())
    load_weights(loaded, loaded.config, tmp_path)
    before, after = dict(whole_tensors(model)), dict(whole_tensors(loaded))
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])
