"""This program's first Qwen against that of PaddleNLP, from the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from tests.peers.comparison import (
    Case,
    assert_close,
    assert_equal_outputs,
    built,
    run_paddlenlp,
)

pytestmark = pytest.mark.peer_paddlenlp

FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}


def qwen(**changes: Any) -> dict[str, Any]:
    return {
        "model_type": "qwen",
        "vocab_size": 99,
        "hidden_size": 32,
        "intermediate_size": 88,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "kv_channels": 8,
        "seq_length": 64,
        **changes,
    }


CASES = {
    "plain": Case(qwen(), length=25),
    "fused": Case(qwen(layer_norm_epsilon=1e-5), FUSED, length=64),
    "large-heads": Case(
        qwen(hidden_size=48, intermediate_size=50, num_attention_heads=3, kv_channels=16,
             rotary_emb_base=500.0, seq_length=300), length=77,
    ),
    "several-blocks": Case(qwen(seq_length=300), length=300),
    "beyond": Case(qwen(seq_length=16), length=25),
    "far-beyond": Case(qwen(seq_length=16), FUSED, length=129),
    "larger-base": Case(qwen(seq_length=16, use_logn_attn=False), length=33),
    "scaled-queries": Case(qwen(seq_length=16, use_dynamic_ntk=False), length=33),
    "neither": Case(qwen(seq_length=16, use_dynamic_ntk=False, use_logn_attn=False), length=33),
}  # fmt: skip


@pytest.fixture(scope="module")
def directory(paddlenlp_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cases")
    run_paddlenlp(paddlenlp_python, CASES, directory)
    return directory


def theirs(directory: Path, name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What is trained with, and the logits of evaluation."""
    results = dict(np.load(directory / name / "results.npz"))
    evaluation = results.pop("evaluation_logits")
    return results, evaluation


@pytest.mark.parametrize("name", CASES)
def test_training(name: str, directory: Path) -> None:
    model, tokens = built(CASES, name)
    model.train()
    assert_equal_outputs(model, tokens, theirs(directory, name)[0])


@pytest.mark.parametrize("name", CASES)
def test_evaluation(name: str, directory: Path) -> None:
    model, tokens = built(CASES, name)
    model.eval()
    trained, evaluated = theirs(directory, name)
    logits = model(paddle.to_tensor(tokens)).numpy()
    assert_close({"logits": logits}, {"logits": evaluated})
    is_changed = not np.allclose(evaluated, trained["logits"], atol=1e-3)
    assert is_changed == (name in ("beyond", "far-beyond", "larger-base", "scaled-queries"))
