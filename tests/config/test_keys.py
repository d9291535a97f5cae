"""Every key of other programs' pretraining is known, and the schema helps with all keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.config import (
    DataArguments,
    ModelArguments,
    describe_keys,
    json_schema,
    keys,
)
from llm_pretrain.config.config_file import read_config_file
from llm_pretrain.config.foreign_keys import INERT, MEANINGS, ONLY, SPELLINGS
from llm_pretrain.config.parallel_options import FLAGS, INERT_OPTIONS, OPTIONS

PUBLISHED = (Path(__file__).parent / "published_keys.txt").read_text(encoding="utf-8").split()
REPOSITORY = Path(__file__).parents[2]
FILES = [*REPOSITORY.glob("configs/*/*.json"), *Path(__file__).parent.glob("published/*/*")]


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
            assert f"{name}: {effect}" in text
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


def test_the_schema_helps_an_editor() -> None:
    schema = json_schema()
    json.dumps(schema)
    properties = schema["properties"]
    assert schema["additionalProperties"] is False
    assert properties["learning_rate"]["default"] == 5e-5
    assert "learning rate" in properties["learning_rate"]["description"]
    assert properties["decay_type"]["enum"] == ["linear", "cosine", "1-sqrt"]
    assert properties["do_train"]["anyOf"] == [{"type": "boolean"}, {"enum": [0, 1]}]
    assert all(properties[key]["deprecated"] for key in INERT)
    assert all(value.get("description") for key, value in properties.items() if key != "$schema")


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_files_fit_the_schema(path: Path) -> None:
    properties = json_schema()["properties"]
    for key, value in read_config_file(path).values.items():
        assert fits(value, properties[key]), key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("do_train", 2),
        ("do_train", "true"),
        ("max_steps", 1.5),
        ("max_steps", "1"),
        ("learning_rate", "1"),
        ("lr_scheduler_type", "polynomial"),
        ("no_recompute_layers", 3),
        ("no_recompute_layers", ["a"]),
        ("sharding", "stage4"),
        ("per_device_train_batch_size", 0),
    ],
)
def test_wrong_values_do_not_fit_the_schema(key: str, value: Any) -> None:
    assert not fits(value, json_schema()["properties"][key])


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """What the schema's own words mean, as far as it uses them."""
    if "anyOf" in schema:
        return any(fits(value, choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return any(type(value) is type(choice) and value == choice for choice in schema["enum"])
    if "const" in schema:
        return bool(value == schema["const"])
    if schema.get("type") == "array":
        return isinstance(value, list) and all(fits(item, schema["items"]) for item in value)
    types = {
        "boolean": (bool,),
        "integer": (int,),
        "number": (int, float),
        "string": (str,),
        "null": (type(None),),
    }
    if "type" not in schema:
        return True
    if type(value) not in types[schema["type"]]:
        return False
    if "exclusiveMinimum" in schema:
        return bool(value > schema["exclusiveMinimum"])
    return bool(value >= schema.get("minimum", value))
