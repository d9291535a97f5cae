"""This program's OPT against that of transformers, from the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers.comparison import Case, assert_like_transformers, run_transformers

pytestmark = pytest.mark.peer_transformers

SMALL = {
    "model_type": "opt",
    "vocab_size": 99,
    "hidden_size": 36,
    "ffn_dim": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "dropout": 0.0,
    # Theirs keeps the row of a padding token from learning; here a sample has no padding.
    "pad_token_id": None,
}
CASES = {
    "plain": Case(SMALL),
    "fused": Case({**SMALL, "num_attention_heads": 6}, own={"fuse_attention_qkv": True}, length=32),
    "several-blocks": Case({**SMALL, "max_position_embeddings": 300}, length=300),
    "untied-unbiased": Case({**SMALL, "tie_word_embeddings": False, "enable_bias": False}),
}


@pytest.fixture(scope="module")
def cases(transformers_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cases")
    run_transformers(transformers_python, CASES, directory)
    return directory


@pytest.mark.parametrize("name", CASES)
def test_like_transformers(name: str, cases: Path) -> None:
    assert_like_transformers(CASES, name, cases)
