"""Converted weights load in PaddleNLP, and what PaddleNLP saves is read, of every family."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.checkpoint.convert import TARGETS, convert
from llm_pretrain.checkpoint.published_weights import PublishedWeights
from llm_pretrain.checkpoint.write_weights import as_published
from llm_pretrain.models.families import read_model_config
from tests.checkpoint.models import TINY, WITHOUT_PADDLENLP, write_random_model
from tests.peers.comparison import run_peer

pytestmark = pytest.mark.peer_paddlenlp

SCRIPT = Path(__file__).with_name("paddlenlp_convert.py")
NAMES = [name for name in TINY if name not in WITHOUT_PADDLENLP]


@pytest.fixture(scope="module")
def directory(paddlenlp_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    for name in NAMES:
        folder = directory / name.replace("/", "-")
        write_random_model(name, folder / "original")
        convert(folder / "original", folder / "converted", TARGETS["paddlenlp"])
    run_peer(paddlenlp_python, SCRIPT, directory)
    return directory


def tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    return PublishedWeights(path, read_model_config(path)).whole_tensors()


@pytest.mark.parametrize("name", NAMES)
def test_paddlenlp_holds_what_was_converted(directory: Path, name: str) -> None:
    folder = directory / name.replace("/", "-")
    config = read_model_config(folder / "original")
    with np.load(folder / "state.npz") as state:
        held = dict(state)
    for published, values in as_published(
        tensors(folder / "original"), config, TARGETS["paddlenlp"]
    ):
        np.testing.assert_array_equal(held.pop(published), values, err_msg=published)
    (table,) = (
        values for other, values in tensors(folder / "original") if other == "embedding.weight"
    )
    for other, values in held.items():
        if "lm_head" in other:
            np.testing.assert_array_equal(values, table, err_msg=other)
        else:
            assert "inv_freq" in other


@pytest.mark.parametrize("form", ["safetensors", "pdparams", "parts"])
@pytest.mark.parametrize("name", NAMES)
def test_what_paddlenlp_saves_is_read(directory: Path, name: str, form: str) -> None:
    folder = directory / name.replace("/", "-")
    read = dict(tensors(folder / form))
    for canonical, values in tensors(folder / "original"):
        np.testing.assert_array_equal(read.pop(canonical), values, err_msg=canonical)
    assert not read
