"""This program's models against those of transformers, from the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.checkpoint.load import load_weights
from llm_pretrain.models.decoder import Decoder
from tests.peers.comparison import once_for_each
from tests.peers.like_transformers import assert_like_transformers, run_transformers
from tests.peers.transformers_cases import CASES

pytestmark = pytest.mark.peer_transformers


@pytest.fixture(scope="module")
def directory_of(
    transformers_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folders of a family's cases with what transformers made of them, once."""
    return once_for_each(
        tmp_path_factory,
        lambda family, directory: run_transformers(transformers_python, CASES[family], directory),
    )


@pytest.mark.parametrize(("family", "name"), [(f, name) for f in CASES for name in CASES[f]])
def test_computes_reads_and_writes_as_transformers_does(
    family: str, name: str, directory_of: Callable[[str], Path]
) -> None:
    assert_like_transformers(CASES[family], name, directory_of(family))


@pytest.mark.parametrize("name", ["no-scaling-named", "grouped-tied-fused"])
def test_bfloat16_weights_that_transformers_saved(
    name: str, directory_of: Callable[[str], Path]
) -> None:
    model, _ = CASES["llama"][name].build()
    loaded = Decoder(model.config)
    load_weights(loaded, model.config, directory_of("llama") / name / "again-bfloat16")
    for ours, theirs in zip(model.parameters(), loaded.parameters(), strict=True):
        rounded = ours.astype("bfloat16").astype("float32")
        np.testing.assert_array_equal(rounded.numpy(), theirs.numpy())
