"""Models converted from PaddleNLP's layout load in transformers; files of torch.save are read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.checkpoint.convert import TARGETS, convert
from llm_pretrain.checkpoint.find_model import load_model
from llm_pretrain.checkpoint.published_weights import PublishedWeights
from llm_pretrain.checkpoint.write_weights import as_published
from llm_pretrain.models.families import read_model_config
from llm_pretrain.models.generate import generate
from tests.checkpoint.models import TINY, WITHOUT_PADDLENLP, random_tensors, write_random_model
from tests.peers.comparison import run_peer

pytestmark = pytest.mark.peer_transformers

SCRIPT = Path(__file__).with_name("transformers_convert.py")
# Of the others, transformers has no code of its own, or a model of another name.
FAMILIES = ("llama", "bloom", "gpt", "opt", "qwen2", "qwen3")
PROMPT = [3, 1, 4, 1, 5]
NAMES = [name for name in TINY if name.removeprefix("tiny/").startswith(FAMILIES)]


@pytest.fixture(scope="module")
def directory(transformers_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    for name in NAMES:
        folder = directory / name.replace("/", "-")
        original = folder / "original"
        write_random_model(name, original)
        if name not in WITHOUT_PADDLENLP:
            convert(original, folder / "there", TARGETS["paddlenlp"])
            original = folder / "there"
        convert(original, folder / "converted", TARGETS["huggingface"])
    (directory / "prompt.json").write_text(json.dumps(PROMPT))
    run_peer(transformers_python, SCRIPT, directory)
    return directory


@pytest.mark.parametrize("name", NAMES)
def test_transformers_holds_what_was_converted(directory: Path, name: str) -> None:
    folder = directory / name.replace("/", "-")
    config = read_model_config(folder / "original")
    with np.load(folder / "state.npz") as state:
        held = dict(state)
    for published, values in as_published(random_tensors(config).items(), config):
        np.testing.assert_array_equal(held.pop(published), values, err_msg=published)
    assert held.keys() <= {"lm_head.weight"}


@pytest.mark.parametrize("name", NAMES)
def test_what_torch_saves_is_read(directory: Path, name: str) -> None:
    folder = directory / name.replace("/", "-") / "bin"
    config = read_model_config(folder)
    expected = random_tensors(config)
    for canonical, values in PublishedWeights(folder, config).whole_tensors():
        np.testing.assert_array_equal(values, expected.pop(canonical), err_msg=canonical)
    assert not expected


@pytest.mark.parametrize("name", NAMES)
def test_the_same_tokens_follow(directory: Path, name: str) -> None:
    folder = directory / name.replace("/", "-")
    theirs = json.loads((folder / "generated.json").read_text())
    assert generate(load_model(folder / "converted"), PROMPT, 12) == theirs
