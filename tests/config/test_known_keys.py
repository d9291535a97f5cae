"""Every key of PaddleNLP's and PaddleFormers' pretraining is known, with an effect or a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_pretrain.config import (
    DataArguments,
    ModelArguments,
    describe_keys,
    json_schema,
    keys,
)
from llm_pretrain.config.foreign_keys import INERT, MEANINGS, ONLY, SPELLINGS
from llm_pretrain.config.parallel_options import FLAGS, INERT_OPTIONS, OPTIONS

PUBLISHED = (Path(__file__).parent / "published_keys.txt").read_text(encoding="utf-8").split()


def test_all_keys_are_known() -> None:
    assert set(PUBLISHED) - json_schema()["properties"].keys() == set()


def test_a_key_is_in_one_table_only() -> None:
    tables = [keys.OWNER, INERT, SPELLINGS, ONLY, MEANINGS, FLAGS, keys.DATASET]
    named = [key for table in tables for key in table]
    assert len(set(named)) == len(named)


@pytest.mark.parametrize("key", keys.OWNER)
def test_every_key_is_described(key: str) -> None:
    assert len(keys.field(key).description or "") > 10


def test_a_key_without_effect_is_accepted_with_one_line_that_says_why(load) -> None:
    notices = load(**dict.fromkeys(INERT, 1)).notices
    told = [line for line in notices if line.partition(": ")[0] in INERT]
    assert told == [f"{key}: no effect here: {reason}" for key, reason in INERT.items()]


@pytest.mark.parametrize("key", OPTIONS)
def test_options_without_effect_are_told_with_the_reason_and_no_others(load, key: str) -> None:
    inert = INERT_OPTIONS[key]
    names = [*OPTIONS[key], *inert]
    assert len(set(names)) == len(names)
    run = load(**{key: " ".join(names)})
    assert getattr(run.training, key) == tuple(names)
    told = [line for line in run.notices if line.startswith(key)]
    assert told == [f"{key} {name}: no effect here: {why}" for name, why in inert.items()]


@pytest.mark.parametrize("key", OPTIONS)
def test_help_and_schema_name_the_options_with_an_effect(key: str) -> None:
    help_text = " ".join(" ".join(describe_keys(200)).split())
    for text in (help_text, json_schema()["properties"][key]["description"]):
        for name, effect in OPTIONS[key].items():
            assert f"{name} ({effect})" in text
        assert not [name for name in INERT_OPTIONS[key] if name in text]


@pytest.mark.parametrize(("spelling", "key"), SPELLINGS.items())
def test_other_spellings(load, spelling: str, key: str) -> None:
    values = {"evaluation_strategy": "steps", "min_learning_rate": 1e-6, "max_seq_length": 64}
    value = values.get(key, 1)
    run = load(**{spelling: value})
    assert any(line.startswith(f"{spelling}: read as {key}") for line in run.notices)
    if key in keys.OWNER:
        part = {DataArguments: run.data, ModelArguments: run.model}.get(
            keys.OWNER[key], run.training
        )
        assert getattr(part, key) == value
        assert run.sources[key] == "run.json"
