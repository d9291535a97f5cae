"""This program's GPT-2 against that of transformers, from the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers.comparison import Case, assert_like_transformers, run_transformers

pytestmark = pytest.mark.peer_transformers

SMALL = {
    "model_type": "gpt2",
    "vocab_size": 99,
    "n_embd": 36,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 32,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
CASES = {
    "plain": Case(SMALL),
    "fused": Case({**SMALL, "n_head": 6}, own={"fuse_attention_qkv": True}, length=32),
    "several-blocks": Case({**SMALL, "n_positions": 300, "n_inner": 50}, length=300),
    # transformers has this under GPT-2's name and keys alone; what is saved has them.
    "GPT-3": Case(
        SMALL,
        own={"model_type": "gpt", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    ),
    "untied": Case({**SMALL, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3}, length=7),
}


@pytest.fixture(scope="module")
def cases(transformers_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cases")
    run_transformers(transformers_python, CASES, directory)
    return directory


@pytest.mark.parametrize("name", CASES)
def test_like_transformers(name: str, cases: Path) -> None:
    assert_like_transformers(CASES, name, cases)
