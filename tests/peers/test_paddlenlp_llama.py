"""LLaMA's scaled rotary embeddings against PaddleNLP's, from its own keys and from ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.models.families import llama, paddlenlp
from tests.peers.comparison import Case, assert_equal_outputs, built, run_paddlenlp

pytestmark = pytest.mark.peer_paddlenlp

POSITIONS = 32
SMALL = {
    "model_type": "llama",
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "rms_norm_eps": 1e-6,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def theirs(kind: str, factor: float, **other: Any) -> dict[str, Any]:
    """A config with PaddleNLP's keys."""
    return {**SMALL, "rope_scaling_type": kind, "rope_scaling_factor": factor, **other}


def written(**scaling: Any) -> dict[str, Any]:
    """The config that is written for PaddleNLP of a model with Hugging Face's keys."""
    published = {**SMALL, "rope_scaling": scaling}
    return paddlenlp.write_config(llama.read_config(published, "config.json"))


CASES = {
    "linear": Case(theirs("linear", 4.0), length=50),
    "ntk": Case(theirs("ntk", 4.0, rope_theta=500.0), length=50),
    "dynamic": Case(theirs("dynamic_ntk", 4.0), length=POSITIONS),
    "dynamic-beyond": Case(theirs("dynamic_ntk", 4.0), length=50),
    # An object of the type llama3 counts before the two keys.
    "llama3": Case(theirs("linear", 4.0, rope_scaling=LLAMA_3)),
    "written-linear": Case(written(type="linear", factor=2.0), length=50),
    "written-dynamic": Case(written(type="dynamic", factor=2.0), length=50),
    "written-llama3": Case(written(**LLAMA_3)),
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
    results = dict(np.load(directory / name / "results.npz"))
    del results["evaluation_logits"]
    assert_equal_outputs(model, tokens, results)
