"""Settings in the JSON files beside a tokenizer, and the tokens that these files add.

Tokens are added to the vocabulary, or named as special: `tokenizer_config.json` has them under
`added_tokens_decoder`, by id; `added_tokens.json` is the older form. `tokenizer_config.json` and
`special_tokens_map.json` name special tokens, such as `"eos_token": "</s>"`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_pretrain.data.preprocess.streams import PreprocessError

# A config.json without a tokenizer's class beside it names the model at least.
_CLASSES = {
    "chatglm": "ChatGLMTokenizer",
    "chatglm_v2": "ChatGLMv2Tokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen2_moe": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
}
_NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_TOKEN_SETTINGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


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


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in a text before the text is cut, as Hugging Face's tokenizers do."""

    content: str
    id: int | None = None
    """None for one that is only named: the vocabulary knows its id, or has no such token."""
    lstrip: bool = False
    rstrip: bool = False
    """Whether white space before it, behind it, goes along."""
    single_word: bool = False
    """Whether it isn't found inside a word."""
    normalized: bool = True
    """Whether it is looked for in the normalized text."""
    special: bool = False


def read_added_tokens(folder: Path) -> dict[str, AddedToken]:
    """The tokens by what they are in text. Raises PreprocessError where the files are damaged."""
    found = {token.content: token for token in _named(folder)}
    for token, path in (*_listed(folder), *_decoder(folder)):
        known = found.get(token.content, token)
        if known.id not in (None, token.id):
            raise PreprocessError(
                f"{path} gives {token.content!r} the id {token.id}, and another file beside it "
                f"gives {known.id}."
            )
        # Only the list by id has all that there is to say of a token.
        is_complete = path.name == "tokenizer_config.json"
        found[token.content] = token if is_complete else replace(known, id=token.id)
    owners: dict[int, str] = {}
    for token in found.values():
        if token.id is not None and owners.setdefault(token.id, token.content) != token.content:
            raise PreprocessError(
                f"{folder}: the added tokens {owners[token.id]!r} and {token.content!r} have the "
                f"same id, {token.id}."
            )
    return found


def pattern_of(tokens: Iterable[AddedToken]) -> re.Pattern[str]:
    """Finds each of the tokens, the longest first, with the white space that goes along."""
    parts = []
    for token in sorted(tokens, key=lambda token: -len(token.content)):
        # Without groups: `re` then looks for the sign that all tokens begin with, which is fast.
        part = re.escape(token.content)
        if token.single_word:
            part = rf"(?<!\w){part}(?!\w)"
        parts.append(r"\s*" * token.lstrip + part + r"\s*" * token.rstrip)
    return re.compile("|".join(parts) or r"(?!)")


def _named(folder: Path) -> Iterator[AddedToken]:
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        settings = read_json(path)
        tokens = [settings.get(f"{kind}_token") for kind in _NAMED]
        tokens += settings.get("additional_special_tokens") or []
        for token in tokens:
            if isinstance(token, str) and token:
                yield AddedToken(token, normalized=False, special=True)
            elif isinstance(token, dict):
                yield _parse({"special": True, **token}, None, path)


def _listed(folder: Path) -> Iterator[tuple[AddedToken, Path]]:
    path = folder / "added_tokens.json"
    for content, number in read_json(path).items():
        yield _parse({"content": content}, number, path), path


def _decoder(folder: Path) -> Iterator[tuple[AddedToken, Path]]:
    path = folder / "tokenizer_config.json"
    for number, token in (read_json(path).get("added_tokens_decoder") or {}).items():
        yield _parse(token, int(number) if number.isdecimal() else -1, path), path


def _parse(token: dict[str, Any], number: int | None, path: Path) -> AddedToken:
    content = token.get("content")
    if not isinstance(content, str) or not content:
        raise PreprocessError(f"{path} is damaged: an added token has no content.")
    if number is not None and (not isinstance(number, int) or number < 0):
        raise PreprocessError(f"{path} is damaged: the id of {content!r} must be 0 or more.")
    settings = {name: bool(token[name]) for name in _TOKEN_SETTINGS if name in token}
    return AddedToken(content, number, **{"normalized": not settings.get("special"), **settings})
