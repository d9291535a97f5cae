"""This program's LLaMA against that of transformers, from the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.checkpoint.load import load_weights
from llm_pretrain.models.decoder import Decoder
from tests.peers.comparison import Case, assert_like_transformers, built, run_transformers

pytestmark = pytest.mark.peer_transformers

SMALL = {
    "model_type": "llama",
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}
LLAMA_3_1 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


def case(length: int = 24, own: dict[str, Any] | None = None, **published: Any) -> Case:
    return Case({**SMALL, **published}, own or {}, length)


CASES = {
    "llama-1": case(rms_norm_eps=1e-5),
    "llama-1-fused": case(own=FUSED, initializer_range=0.01),
    "grouped-tied": case(num_key_value_heads=2, tie_word_embeddings=True),
    "grouped-tied-fused": case(own=FUSED, num_key_value_heads=2, tie_word_embeddings=True),
    "several-blocks": case(
        300, FUSED, num_key_value_heads=2, rope_theta=500000.0, rope_scaling=LLAMA_3_1
    ),
    "biases": case(attention_bias=True, mlp_bias=True, num_key_value_heads=1),
    "biases-fused": case(own=FUSED, attention_bias=True, mlp_bias=True),
    "head-dim": case(own=FUSED, head_dim=12, num_key_value_heads=2),
    "linear": case(rope_scaling={"type": "linear", "factor": 2.0}),
    "dynamic-within": case(rope_scaling={"type": "dynamic", "factor": 2.0}),
    "dynamic-beyond": case(
        rope_scaling={"type": "dynamic", "factor": 2.0}, max_position_embeddings=16
    ),
    "yarn": case(rope_scaling=YARN),
    "yarn-temperature": case(
        rope_parameters={
            **YARN,
            "mscale": 0.7,
            "mscale_all_dim": 1.3,
            "truncate": False,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "rope_theta": 5000.0,
        }
    ),
    "present-spelling": case(rope_parameters={"rope_type": "default", "rope_theta": 1000.0}),
}


@pytest.fixture(scope="module")
def directory(transformers_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of all cases with what transformers made of them."""
    directory = tmp_path_factory.mktemp("cases")
    run_transformers(transformers_python, CASES, directory)
    return directory


@pytest.mark.parametrize("name", CASES)
def test_computes_reads_and_writes_as_transformers_does(name: str, directory: Path) -> None:
    assert_like_transformers(CASES, name, directory)


@pytest.mark.parametrize("name", ["llama-1", "grouped-tied-fused"])
def test_bfloat16_weights_that_transformers_saved(name: str, directory: Path) -> None:
    model, _ = built(CASES, name)
    loaded = Decoder(model.config)
    load_weights(loaded, model.config, directory / name / "again-bfloat16")
    for ours, theirs in zip(model.parameters(), loaded.parameters(), strict=True):
        rounded = ours.astype("bfloat16").astype("float32")
        np.testing.assert_array_equal(rounded.numpy(), theirs.numpy())
