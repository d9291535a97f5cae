"""Baichuan 1 against PaddleNLP, which computes it as a LLaMA, with or without linear biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.checkpoint.layout import PADDLENLP
from llm_pretrain.checkpoint.write_weights import as_published, write_weights
from llm_pretrain.parallel.vocabulary_loss import IGNORED_LABEL
from tests.peers.comparison import (
    Case,
    assert_close,
    built,
    outputs_of,
    run_peer,
    whole_tensors,
)

pytestmark = pytest.mark.peer_paddlenlp

SCRIPT = Path(__file__).with_name("paddlenlp_own_layout.py")
FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}


def baichuan(**changes: Any) -> dict[str, Any]:
    return {
        "model_type": "baichuan",
        "vocab_size": 99,
        "hidden_size": 40,
        "intermediate_size": 36,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "rms_norm_eps": 1e-6,
        **changes,
    }


CASES = {
    "7B": Case(baichuan(max_position_embeddings=512), length=33),
    "7B-fused": Case(baichuan(max_position_embeddings=512, rms_norm_eps=1e-3), FUSED, length=300),
    "13B": Case(baichuan(model_max_length=512), length=33),
    "13B-fused": Case(baichuan(model_max_length=512, num_attention_heads=4), FUSED, length=300),
}


@pytest.fixture(scope="module")
def directory(paddlenlp_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of all cases with what PaddleNLP made of them."""
    directory = tmp_path_factory.mktemp("cases")
    for name in CASES:
        model, tokens = built(CASES, name)
        saved = directory / name / "saved"
        write_weights(whole_tensors(model), model.config, saved, layout=PADDLENLP)
        labels = np.concatenate([tokens[:, 1:], np.full((len(tokens), 1), IGNORED_LABEL)], axis=1)
        np.savez(directory / name / "inputs.npz", tokens=tokens, labels=labels)
    run_peer(paddlenlp_python, SCRIPT, directory)
    return directory


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_every_gradient(name: str, directory: Path) -> None:
    model, tokens = built(CASES, name)
    logits, loss, gradients = outputs_of(model, tokens)
    ours = {"logits": logits, "loss": loss}
    for published, gradient in as_published(gradients, model.config, PADDLENLP):
        ours[f"gradient/{published}"] = gradient
    assert_close(ours, dict(np.load(directory / name / "results.npz")))
