"""Words of a text, cut exactly as the library of a known kind of tokenizer cuts them.

A tokenizer that isn't known here, or of which a condition isn't met, has no such rule; then the
library does all the work.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

Split = Callable[[str], list[str]]

_SPACE = "▁"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_PATTERN = LLAMA3_PATTERN.replace("{1,3}", "")
_PATTERNS = (_GPT2, LLAMA3_PATTERN, QWEN_PATTERN)
# Spaces and what follows them, up to the next space; the last word has the spaces at the end, too.
_AT_SPACES = re.compile(rf"{_SPACE}*[^{_SPACE}]+(?:{_SPACE}+\Z)?|{_SPACE}+")
_BASIC = 0x10000
# Letters, numbers and white space are all below; above are ideographs not yet assigned, and marks.
_ALL = 0x40000
_BEYOND_BASIC = re.compile("[\U00010000-\U0010ffff]")


def byte_level_split(tokenizer: Tokenizer, parts: dict[str, Any]) -> Split | None:
    """For byte-level BPE whose words are found by one of the well-known patterns.

    `parts` is what the tokenizer's file holds.
    """
    pattern = _byte_level_pattern(parts["pre_tokenizer"])
    if pattern is None or not _is_plain_bpe(parts["model"]):
        return None
    words = _word_pattern(pattern)
    if parts["normalizer"] is None:
        return words
    added_to_raw_text = not any(token["normalized"] for token in parts["added_tokens"])
    if parts["normalizer"] == {"type": "NFC"} and added_to_raw_text:
        normalize = tokenizer.normalizer.normalize_str
        return lambda text: words(text if text.isascii() else normalize(text))
    return None


def metaspace_split(tokenizer: Tokenizer, parts: dict[str, Any]) -> Split | None:
    """For BPE over whole texts with "▁" for spaces, as LLaMA 1 and 2 have it."""
    model, normalizer, pre = parts["model"], parts["normalizer"], parts["pre_tokenizer"]
    replaces = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": _SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
        ],
    }
    whole_texts = pre is not None and pre["type"] == "Metaspace" and pre.get("split") is False
    if not (
        _is_plain_bpe(model)
        and model["byte_fallback"]
        and not model.get("ignore_merges")
        and all(f"<0x{byte:02X}>" in model["vocab"] for byte in range(256))
        and _spaces_only_begin(model["vocab"])
    ):
        return None
    if normalizer == replaces and pre is None:
        normalize = tokenizer.normalizer.normalize_str
        return lambda text: _AT_SPACES.findall(normalize(text))
    if normalizer is None and whole_texts and pre["replacement"] == _SPACE:
        cut = tokenizer.pre_tokenizer.pre_tokenize_str
        return lambda text: _AT_SPACES.findall("".join(part for part, _ in cut(text)))
    return None


def sentencepiece_split(processor: SentencePieceProcessor) -> Split | None:
    """For SentencePiece's BPE that keeps text as it is, as LLaMA 1 and 2 have it.

    The words begin with "▁", except that SentencePiece is to add the first of them itself.
    """
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(processor.serialized_model_proto())
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    pieces = [piece.piece for piece in model.pieces]
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
    if not (
        trainer.model_type == trainer.BPE
        and trainer.byte_fallback
        and not trainer.treat_whitespace_as_suffix
        and not normalizer.precompiled_charsmap
        and not normalizer.normalization_rule_tsv
        and normalizer.add_dummy_prefix
        and normalizer.escape_whitespaces
        and not normalizer.remove_extra_whitespaces
        and _spaces_only_begin(pieces)
        and all(piece.type != kinds.USER_DEFINED for piece in model.pieces)
    ):
        return None
    return lambda text: _AT_SPACES.findall(_SPACE + text.replace(" ", _SPACE)) if text else []


def _is_plain_bpe(model: dict[str, Any]) -> bool:
    return (
        model["type"] == "BPE"
        and not model["dropout"]
        and not model["continuing_subword_prefix"]
        and not model["end_of_word_suffix"]
    )


def _spaces_only_begin(tokens: Iterable[str]) -> bool:
    """Whether no token has a space behind something else.

    Then no merge joins what is before such a place with what is behind, and BPE over the whole
    is BPE over the parts.
    """
    inside = re.compile(f"[^{_SPACE}]{_SPACE}")
    return not any(inside.search(token) for token in tokens)


def _byte_level_pattern(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """The pattern, if this pre-tokenizer is a ByteLevel, or a known Split followed by one."""
    if pre_tokenizer is None:
        return None
    parts = [pre_tokenizer]
    if pre_tokenizer["type"] == "Sequence":
        parts = pre_tokenizer["pretokenizers"]
    *splits, last = parts
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    if not splits and last["use_regex"]:
        return _GPT2
    if len(splits) != 1 or splits[0]["type"] != "Split" or last["use_regex"]:
        return None
    split = splits[0]
    pattern: str | None = split["pattern"].get("Regex")
    known = pattern in _PATTERNS and split["behavior"] == "Isolated" and not split["invert"]
    return pattern if known else None


def _word_pattern(pattern: str) -> Split:
    def split(text: str) -> list[str]:
        # `re` has a table for classes of basic characters, and tests others range by range.
        limit = _ALL if _BEYOND_BASIC.search(text) else _BASIC
        return _in_python(pattern, limit).findall(text)

    return split


@functools.cache
def _in_python(pattern: str, limit: int) -> re.Pattern[str]:
    """The pattern with its character classes spelled out, since `re` has no \\p{L}."""
    translated = []
    inside = False
    for sign in re.findall(r"\\p\{\w\}|\\.|.", pattern):
        if sign in (r"\p{L}", r"\p{N}", r"\s", r"\S"):
            ranges = _ranges(sign.replace("S", "s"), limit)
            opening = "[^" if sign == r"\S" else "["
            sign = ranges if inside else f"{opening}{ranges}]"
        inside = sign == "[" or (inside and sign != "]")
        translated.append(sign)
    return re.compile("".join(translated))


@functools.cache
def _ranges(character_class: str, limit: int) -> str:
    """The characters of a class below a limit, as the library's own engine sees them."""
    from tokenizers import Regex, normalizers

    every = np.arange(limit, dtype="<u4").tobytes().decode("utf-32-le", "ignore")
    others = Regex(rf"[^{character_class}]+")
    members = normalizers.Replace(others, "").normalize_str(every)
    codes = np.frombuffer(members.encode("utf-32-le"), np.uint32).astype(np.int64)
    borders = np.flatnonzero(np.diff(codes) > 1)
    firsts = codes[np.concatenate(([0], borders + 1))]
    lasts = codes[np.concatenate((borders, [len(codes) - 1]))]
    pairs = zip(firsts.tolist(), lasts.tolist(), strict=True)
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in pairs)


def signs_of_bytes() -> list[str]:
    """The printable sign of each byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def bytes_of(token: str) -> bytes | None:
    """The bytes that a token's signs stand for; None where it has others, as special tokens do."""
    try:
        return bytes(map(_bytes_of_signs().__getitem__, token))
    except KeyError:
        return None


def bytes_of_piece(piece: str) -> int:
    """How many bytes a piece stands for that has "▁" for a space, or is a byte like <0x0A>."""
    if re.fullmatch("<0x[0-9A-F]{2}>", piece):
        return 1
    return len(piece.replace(_SPACE, " ").encode())


@functools.cache
def _bytes_of_signs() -> Mapping[str, int]:
    return {sign: byte for byte, sign in enumerate(signs_of_bytes())}
