"""docs/adding_a_family.md, followed: StableLM, which the program does not have, is added."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.config import ConfigError, ModelArguments
from llm_pretrain.models.families import FAMILIES, SEEDS, load_model_config
from llm_pretrain.models.families.family import Family
from tests.models.stablelm import StableLm
from tests.peers.comparison import Case
from tests.peers.like_transformers import assert_like_transformers, run_transformers

PAGE = Path(__file__).parents[2] / "docs" / "adding_a_family.md"
PUBLISHED = {
    "model_type": "stablelm",
    "vocab_size": 50304,
    "hidden_size": 2560,
    "intermediate_size": 6912,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "layer_norm_eps": 1e-5,
    "partial_rotary_factor": 0.25,
}
SMALL = {
    "model_type": "stablelm",
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
}
FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}
CASES = {
    "plain": Case(SMALL),
    "biases-fused": Case({**SMALL, "use_qkv_bias": True, "partial_rotary_factor": 0.5}, FUSED),
    "grouped": Case({**SMALL, "num_key_value_heads": 2, "rope_theta": 1e6}, length=33),
    "several-blocks-tied": Case(
        {**SMALL, "hidden_size": 64, "tie_word_embeddings": True, "layer_norm_eps": 1e-3},
        length=300,
    ),
}


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """The line that the page adds to `_FAMILIES`, and a model of seeds.json."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "stablelm", StableLm())
        patch.setitem(SEEDS, "stabilityai/stablelm-3b-4e1t", PUBLISHED)
        yield


def test_size_is_the_published_one() -> None:
    name = "stabilityai/stablelm-3b-4e1t"
    config = load_model_config(name, ModelArguments(model_name_or_path=name), max_seq_length=4096)
    assert config.parameter_count() == 2_795_443_200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_parallel_residual": True}, "use_parallel_residual: True"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type: 'yarn'"),
        ({"hidden_act": "relu"}, "hidden_act: 'relu'"),
        ({"partial_rotary_factor": 0.4}, "0.4 of 8 dimensions is not whole pairs"),
    ],
)
def test_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StableLm().read_config({**SMALL, **changes}, "config.json")


@pytest.mark.parametrize("name", CASES)
def test_written_config_is_read_as_the_same_model(name: str) -> None:
    config = StableLm().read_config({**CASES[name].published, **CASES[name].own}, name)
    assert StableLm().read_config(StableLm().write_config(config), name) == config


@pytest.fixture(scope="module")
def directory(transformers_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cases")
    run_transformers(transformers_python, CASES, directory)
    return directory


@pytest.mark.peer_transformers
@pytest.mark.parametrize("name", CASES)
def test_equals_transformers(name: str, directory: Path) -> None:
    assert_like_transformers(CASES, name, directory)


def test_the_page_names_all_that_a_family_has() -> None:
    named = set(re.findall(r"^\| `(\w+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    tables = {name for name in vars(StableLm) if not name.startswith("_")}
    assert tables <= named
    assert named == {name for name in {**vars(Family), **Family.__annotations__} if name[0] != "_"}
