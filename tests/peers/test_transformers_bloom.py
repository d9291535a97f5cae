"""This program's BLOOM against that of transformers, from the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.peers.comparison import Case, assert_like_transformers, run_transformers

pytestmark = pytest.mark.peer_transformers


def case(length: int = 24, own: dict[str, Any] | None = None, **published: Any) -> Case:
    sizes = {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4}
    return Case({"model_type": "bloom", **sizes, **published}, own or {}, length)


CASES = {
    "plain": case(),
    "fused": case(own={"fuse_attention_qkv": True}, initializer_range=0.01),
    "several-blocks": case(300, layer_norm_epsilon=1e-3),
    "unequal-slopes": case(33, hidden_size=35, n_head=7, n_layer=3),
    "own-head": case(tie_word_embeddings=False),
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
