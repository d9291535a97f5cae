"""Tokenizers of Hugging Face's library `tokenizers`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_pretrain.data.preprocess.tokenizers.byte_level import END_OF_TEXT
from llm_pretrain.data.preprocess.tokenizers.settings import model_eos, named_eos
from llm_pretrain.data.preprocess.wide_text import WideText, wide_text
from llm_pretrain.data.preprocess.word_split import (
    byte_level_split,
    bytes_of,
    bytes_of_piece,
    metaspace_split,
)
from llm_pretrain.data.preprocess.words import Ragged, WordTable, encode_by_table

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WORDS_AT_ONCE = 1000


class HuggingFaceTokenizer:
    """A Tokenizer. `path`: the file that `loaded` comes from; its neighbours name the EOS token.

    Where they name none, it is `<|endoftext|>` if `end_of_text` says so.
    """

    def __init__(self, loaded: Tokenizer, path: Path, *, end_of_text: bool = False) -> None:
        self._tokenizer = loaded
        # A saved tokenizer may cut and pad texts, which would lose and invent tokens.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        self.vocab_size = max(ids, default=-1) + 1
        eos: int | None = named_eos(path, self._tokenizer.token_to_id)
        if eos is None:
            eos = model_eos(path.parent, self.vocab_size)
        if eos is None and end_of_text:
            eos = self._tokenizer.token_to_id(END_OF_TEXT)
        self.eos_id = eos

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> Ragged:
        # An added token is found before a text is cut into words, which the table can't do.
        return encode_by_table(
            texts, self._table, self._by_library, exceptions=self._added, wide=self._by_characters
        )

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def token_bytes(self) -> np.ndarray | None:
        parts = json.loads(self._tokenizer.to_str())
        decoder = parts["decoder"] or {}
        steps = {step.get("type") for step in (decoder, *decoder.get("decoders", ()))}
        sizes = np.zeros(self.vocab_size, np.int64)
        for token, number in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if "ByteLevel" in steps:
                sizes[number] = len(bytes_of(token) or b"")
            elif steps & {"ByteFallback", "Metaspace"}:
                sizes[number] = bytes_of_piece(token)
            else:
                return None
        for number, added in self._tokenizer.get_added_tokens_decoder().items():
            sizes[number] = 0 if added.special else len(added.content.encode())
        return sizes

    @cached_property
    def _table(self) -> WordTable | None:
        from tokenizers import Tokenizer as Bare
        from tokenizers import pre_tokenizers

        parts = json.loads(self._tokenizer.to_str())
        bare = Bare(self._tokenizer.model)
        split = metaspace_split(self._tokenizer, parts)
        if split is None:
            split = byte_level_split(self._tokenizer, parts)
            bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return split and WordTable(split, lambda words: _encode_words(bare, words))

    def _by_library(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def _by_characters(self, texts: Sequence[str]) -> Ragged:
        return self._wide.encode(texts) if self._wide else Ragged.of(self._by_library(texts))

    @cached_property
    def _wide(self) -> WideText | None:
        assert self._table is not None
        return wide_text(json.loads(self._tokenizer.to_str()), self._table)

    @cached_property
    def _added(self) -> re.Pattern[str]:
        added = self._tokenizer.get_added_tokens_decoder().values()
        return re.compile("|".join(re.escape(token.content) for token in added) or r"(?!)")


def _encode_words(tokenizer: Any, words: list[str]) -> Ragged:
    """Each word by itself, but few of the library's results, which cost more than the encoding."""
    tokens, sizes = [], []
    for begin in range(0, len(words), _WORDS_AT_ONCE):
        part = words[begin : begin + _WORDS_AT_ONCE]
        encoded = tokenizer.encode(part, is_pretokenized=True, add_special_tokens=False)
        tokens.append(np.array(encoded.ids, np.uint32))
        words_of_tokens = np.array(encoded.word_ids, np.int64)
        sizes.append(np.bincount(words_of_tokens, minlength=len(part)))
    return Ragged.join(tokens, sizes)
