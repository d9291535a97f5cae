"""This program's Qwen2 and Qwen3 against those of transformers, from the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.peers.comparison import Case, assert_like_transformers, run_transformers

pytestmark = pytest.mark.peer_transformers

FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


def small(family: str, **changes: Any) -> dict[str, Any]:
    return {
        "model_type": family,
        "vocab_size": 99,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        **changes,
    }


CASES = {
    "qwen2": Case(small("qwen2", rope_theta=1e6)),
    "qwen2-tied-fused": Case(small("qwen2", tie_word_embeddings=True), FUSED, length=31),
    "qwen2-several-blocks": Case(
        small("qwen2", num_attention_heads=7, num_key_value_heads=1, hidden_size=42,
              rms_norm_eps=1e-5, sliding_window=8), length=300,
    ),
    "qwen2.5-yarn": Case(small("qwen2", rope_scaling=YARN), length=33),
    "qwen3": Case(small("qwen3", head_dim=12, rope_theta=1e6), length=25),
    "qwen3-tied-fused": Case(
        small("qwen3", head_dim=6, tie_word_embeddings=True, num_key_value_heads=4), FUSED,
    ),
    "qwen3-biases": Case(
        small("qwen3", attention_bias=True, head_dim=8, rms_norm_eps=1e-3), length=300
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def directory(transformers_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cases")
    run_transformers(transformers_python, CASES, directory)
    return directory


@pytest.mark.parametrize("name", CASES)
def test_equals_transformers(name: str, directory: Path) -> None:
    assert_like_transformers(CASES, name, directory)
