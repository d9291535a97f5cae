"""The built-in configs of one family."""

from __future__ import annotations

from typing import Any

from llm_pretrain.models.families import SEEDS


def seeds_of(*model_types: str) -> dict[str, dict[str, Any]]:
    return {name: seed for name, seed in SEEDS.items() if seed["model_type"] in model_types}
