"""What the JSON files beside a tokenizer say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llm_pretrain.preprocess.errors import PreprocessError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file, empty if there is no file. Raises PreprocessError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise PreprocessError(f"{path} can't be read: {error}") from error
    if not isinstance(value, dict):
        raise PreprocessError(f"{path} must hold a JSON object.")
    return value


def eos_name(settings: dict[str, Any]) -> str | None:
    """The end-of-document token that a tokenizer_config.json or special_tokens_map.json names."""
    token = settings.get("eos_token")
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
