"""What the JSON files beside a tokenizer say of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_pretrain.preprocess.errors import PreprocessError

# A config.json without a tokenizer's class beside it names the model at least.
_CLASSES = {
    "chatglm": "ChatGLMTokenizer",
    "chatglm_v2": "ChatGLMv2Tokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen2_moe": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
}


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


def tokenizer_class(folder: Path) -> str | None:
    """The class of the tokenizer that the settings name; `Fast` at the end says nothing here."""
    name = read_json(folder / "tokenizer_config.json").get("tokenizer_class")
    name = name or _CLASSES.get(str(read_json(folder / "config.json").get("model_type")))
    return name.removesuffix("Fast") if isinstance(name, str) else None


def eos_name(settings: dict[str, Any]) -> str | None:
    """The end-of-document token that a tokenizer_config.json or special_tokens_map.json names."""
    token = settings.get("eos_token")
    if isinstance(token, dict):
        token = token.get("content")
    # LLaMA's first files for Hugging Face had an empty name.
    return token if isinstance(token, str) and token else None


def named_eos(path: Path, id_of: Callable[[str], int | None]) -> int | None:
    """The id of the end-of-document token that is named beside the tokenizer's file `path`.

    Raises PreprocessError where the tokenizer has no such token.
    """
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = eos_name(read_json(path.with_name(name)))
        if token is not None:
            eos = id_of(token)
            if eos is None:
                raise PreprocessError(
                    f"{path.with_name(name)} names the end-of-document token {token!r}, which "
                    f"{path.name} doesn't have."
                )
            return eos
    return None


def model_eos(folder: Path, vocab_size: int) -> int | None:
    """The id of the end-of-document token in the model's settings, if it is below `vocab_size`."""
    for name in ("generation_config.json", "config.json"):
        eos = read_json(folder / name).get("eos_token_id")
        if isinstance(eos, list) and eos:
            eos = eos[0]
        if isinstance(eos, int) and 0 <= eos < vocab_size:
            return eos
    return None
