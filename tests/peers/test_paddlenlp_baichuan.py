"""Baichuan 1 against PaddleNLP, which computes it as a LLaMA, with or without linear biases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.models.families import baichuan, llama
from tests.peers.comparison import Case, assert_equal_outputs, built, run_paddlenlp

pytestmark = pytest.mark.peer_paddlenlp

SMALL = {
    "model_type": "llama",
    "vocab_size": 99,
    "hidden_size": 40,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
}
CASES = {
    "7B": Case({**SMALL, "alibi": False}, length=33),
    "13B": Case({**SMALL, "alibi": True}, length=33),
    "13B-several-blocks": Case({**SMALL, "alibi": True, "num_attention_heads": 4}, length=300),
}


@pytest.fixture(scope="module")
def directory(paddlenlp_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of all cases with what PaddleNLP made of them."""
    directory = tmp_path_factory.mktemp("cases")
    run_paddlenlp(paddlenlp_python, CASES, directory)
    return directory


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_every_gradient(name: str, directory: Path) -> None:
    model, tokens = built(CASES, name)
    theirs = dict(np.load(directory / name / "results.npz"))
    del theirs["evaluation_logits"]
    assert_equal_outputs(model, tokens, theirs)


@pytest.mark.parametrize("name", CASES)
def test_baichuan_is_the_same_model(name: str) -> None:
    published = CASES[name].published
    own = baichuan.read_config({**published, "model_type": "baichuan"}, name)
    assert replace(own, family="llama") == llama.read_config(published, name)
