from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.config import json_schema
from llm_pretrain.config.config_file import read_config_file
from llm_pretrain.config.foreign_keys import INERT

REPOSITORY = Path(__file__).parents[2]
FILES = [*REPOSITORY.glob("configs/*/*.json"), *Path(__file__).parent.glob("published/*/*")]


def test_the_schema_helps_an_editor() -> None:
    schema = json_schema()
    json.dumps(schema)
    properties = schema["properties"]
    assert schema["additionalProperties"] is False
    assert properties["learning_rate"]["default"] == 5e-5
    assert "learning rate" in properties["learning_rate"]["description"]
    assert properties["lr_scheduler_type"]["enum"] == ["linear", "cosine"]
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
        ("lr_scheduler_type", "constant"),
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
