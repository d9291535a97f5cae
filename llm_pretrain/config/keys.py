"""All keys that a configuration may hold, and the group each belongs to."""

from __future__ import annotations

import difflib

from pydantic.fields import FieldInfo

from llm_pretrain.config.arguments import Arguments
from llm_pretrain.config.data_arguments import DataArguments
from llm_pretrain.config.inert import INERT
from llm_pretrain.config.model_arguments import ModelArguments
from llm_pretrain.config.paddleformers import DATASET, MEANINGS, ONLY
from llm_pretrain.config.parallel_options import FLAGS
from llm_pretrain.config.spellings import SPELLINGS
from llm_pretrain.config.training_arguments import TrainingArguments

MODELS: tuple[type[Arguments], ...] = (ModelArguments, DataArguments, TrainingArguments)

OWNER: dict[str, type[Arguments]] = {key: owner for owner in MODELS for key in owner.model_fields}

KNOWN: frozenset[str] = frozenset([*OWNER, *INERT, *ONLY, *MEANINGS, *FLAGS, *DATASET])


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
