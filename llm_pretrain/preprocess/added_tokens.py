"""Tokens that the JSON files beside a tokenizer add to its vocabulary, or name as special.

`tokenizer_config.json` has them under `added_tokens_decoder`, by id; `added_tokens.json` is the
older form. `tokenizer_config.json` and `special_tokens_map.json` name special tokens, such as
`"eos_token": "</s>"`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_pretrain.preprocess.errors import PreprocessError
from llm_pretrain.preprocess.tokenizer_settings import read_json

_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_SETTINGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


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
        tokens = [settings.get(f"{kind}_token") for kind in _NAMES]
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
    settings = {name: bool(token[name]) for name in _SETTINGS if name in token}
    return AddedToken(content, number, **{"normalized": not settings.get("special"), **settings})
