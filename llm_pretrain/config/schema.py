"""The JSON schema of a configuration, from which editors complete and check."""

from __future__ import annotations

from typing import Any

from llm_pretrain.config import keys
from llm_pretrain.config.inert import INERT
from llm_pretrain.config.paddleformers import DATASET, MEANINGS, ONLY
from llm_pretrain.config.parallel_options import FLAGS, OPTIONS
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
    for key, (values, reason) in ONLY.items():
        allowed = [value for value in values if value is not None] or [None]
        description = f"No effect here: {reason}."
        properties[key] = {"enum": allowed, "deprecated": True, "description": description}
    for key, meanings in MEANINGS.items():
        own = " or ".join(dict.fromkeys(own for own, _ in meanings.values()))
        description = f"Read as {own}."
        properties[key] = {"enum": list(meanings), "deprecated": True, "description": description}
    for flag, (key, option) in FLAGS.items():
        description = f"Read as the option {option} of {key}."
        properties[flag] = properties["do_train"] | {"description": description}
        properties[flag]["deprecated"] = True
    for key in DATASET:
        properties[key] = {"deprecated": True, "description": "Read as input_dir."}
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
