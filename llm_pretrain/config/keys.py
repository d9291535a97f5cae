"""All keys that a configuration may hold, the group of each, and the JSON schema of them."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic.fields import FieldInfo

from llm_pretrain.config.argument_types import Arguments
from llm_pretrain.config.foreign_keys import DATASET, INERT, MEANINGS, ONLY, SPELLINGS
from llm_pretrain.config.model_arguments import DataArguments, ModelArguments
from llm_pretrain.config.parallel_options import FLAGS, OPTIONS
from llm_pretrain.config.training_arguments import TrainingArguments
from llm_pretrain.machine.language import translated

MODELS: tuple[type[Arguments], ...] = (ModelArguments, DataArguments, TrainingArguments)

OWNER: dict[str, type[Arguments]] = {key: owner for owner in MODELS for key in owner.model_fields}

KNOWN: frozenset[str] = frozenset([*OWNER, *INERT, *ONLY, *MEANINGS, *FLAGS, *DATASET])

OF_A_START = (
    "output_dir",
    "overwrite_output_dir",
    "resume_from_checkpoint",
    "logging_dir",
    "print_config",
    "alert_command",
    "alert_url",
    "metrics_port",
)
"""Keys that say where a run writes and begins, and who is told of it."""


def field(key: str) -> FieldInfo:
    """The field of a key that has an effect."""
    return OWNER[key].model_fields[key]


def groups() -> list[tuple[str, list[str]]]:
    """(title, keys) of every group, in reading order; the title is the group's first sentence."""
    found = []
    for owner in MODELS:
        parts = [c for c in reversed(owner.__mro__) if "__annotations__" in vars(c)]
        for part in parts:
            keys = [key for key in owner.model_fields if key in vars(part)["__annotations__"]]
            if keys:
                assert part.__doc__ is not None
                found.append((part.__doc__.splitlines()[0].rstrip("."), keys))
    return found


def nearest(key: str, *, least: float = 0.6) -> str | None:
    """The known key most like an unknown one, if the likeness (0 to 1) is at least so much."""
    known = sorted([*KNOWN, *SPELLINGS])
    close = difflib.get_close_matches(key.lower(), known, n=1, cutoff=least)
    return close[0] if close else None


def json_schema() -> dict[str, Any]:
    """A JSON schema (2020-12) of flat configuration files, with descriptions in the reader's
    language.

    Keys without effect and older spellings are marked deprecated, with the reason.
    """
    properties: dict[str, Any] = {"$schema": {"type": "string"}}
    for owner in MODELS:
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
        if "description" in value:
            value["description"] = translated(value["description"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of llm_pretrain",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
