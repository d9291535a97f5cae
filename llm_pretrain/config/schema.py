"""The JSON schema of a configuration, from which editors complete and check."""

from __future__ import annotations

from typing import Any

from llm_pretrain.config import keys
from llm_pretrain.config.inert import INERT
from llm_pretrain.config.parallel_options import OPTIONS
from llm_pretrain.config.spellings import SPELLINGS


def json_schema() -> dict[str, Any]:
    """A JSON schema (2020-12) of flat configuration files.

    Keys without effect and older spellings are marked deprecated, with the reason.
    """
    properties: dict[str, Any] = {"$schema": {"type": "string"}}
    for owner in keys.MODELS:
        properties |= owner.model_json_schema()["properties"]
    for key in OPTIONS:
        properties[key]["default"] = ""
    for key, reason in INERT.items():
        properties[key] = {"deprecated": True, "description": f"No effect here: {reason}."}
    for spelling, key in SPELLINGS.items():
        properties[spelling] = {
            **properties[key],
            "deprecated": True,
            "description": f"Read as {key}.",
        }
    for value in properties.values():
        value.pop("title", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of llm_pretrain",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
