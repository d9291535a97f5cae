"""This program's GPT-3 against PaddleNLP's GPT, from the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.models.families import gpt, paddlenlp
from tests.peers.comparison import Case, assert_equal_outputs, built, run_paddlenlp

pytestmark = pytest.mark.peer_paddlenlp

SMALL = {
    "model_type": "gpt",
    "vocab_size": 99,
    "hidden_size": 36,
    "intermediate_size": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "hidden_activation": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def written(published: dict[str, Any]) -> dict[str, Any]:
    """The config that this program writes for PaddleNLP of the same model."""
    return paddlenlp.write_config(gpt.read_config(published, "config.json"))


CASES = {
    "plain": Case(SMALL),
    "fused": Case(SMALL, own={"fuse_attention_qkv": True}, length=32),
    "several-blocks": Case({**SMALL, "max_position_embeddings": 300}, length=300),
    "written": Case(written({**SMALL, "num_attention_heads": 9, "vocab_size": 77}), length=7),
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
    np.testing.assert_allclose(theirs.pop("evaluation_logits"), theirs["logits"])
    assert_equal_outputs(model, tokens, theirs)
