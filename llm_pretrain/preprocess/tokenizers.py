"""Tokenizers from a directory: Hugging Face's, SentencePiece's, Qwen's and ChatGLM's files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llm_pretrain.preprocess import chatglm_tokenizer
from llm_pretrain.preprocess.errors import PreprocessError
from llm_pretrain.preprocess.paddlenlp_tokenizer import PaddleNLPTokenizer
from llm_pretrain.preprocess.qwen_tiktoken import END_OF_TEXT, read_qwen_tiktoken
from llm_pretrain.preprocess.tokenizer_settings import eos_name, read_json
from llm_pretrain.preprocess.word_split import (
    byte_level_split,
    metaspace_split,
    sentencepiece_split,
)
from llm_pretrain.preprocess.words import Ragged, WordTable, encode_by_table

_WORDS_AT_ONCE = 1000


class Tokenizer(Protocol):
    """Text to token ids and back. No special tokens are added."""

    @property
    def vocab_size(self) -> int:
        """The largest token id, added tokens included, plus 1."""

    @property
    def eos_id(self) -> int | None:
        """Id of the end-of-document token, if there is one."""

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> Ragged:
        """The ids that `encode` gives, of many texts and fast."""

    def decode(self, ids: Sequence[int]) -> str: ...


def find_tokenizer(directory: str | Path) -> Path | None:
    """The tokenizer's file in a directory; None if it has none.

    `tokenizer.json` comes first, then `tokenizer.model`, `qwen.tiktoken`, and the only `*.model`.
    """
    folder = Path(directory)
    for name in ("tokenizer.json", "tokenizer.model", "qwen.tiktoken"):
        if (folder / name).is_file():
            return folder / name
    models = sorted(folder.glob("*.model")) if folder.is_dir() else []
    return models[0] if len(models) == 1 else None


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a directory. Raises PreprocessError if there is none, or a damaged one."""
    path = find_tokenizer(directory)
    if path is None:
        folder = Path(directory)
        class_name = read_json(folder / "tokenizer_config.json").get("tokenizer_class")
        if class_name is not None:
            return _load_with_paddlenlp(folder, class_name)
        reason = "holds no tokenizer" if folder.is_dir() else "is not a directory"
        raise PreprocessError(
            f"{folder} {reason}: expected is a directory with tokenizer.json, tokenizer.model, "
            "qwen.tiktoken or one other SentencePiece .model."
        )
    try:
        if path.suffix in (".json", ".tiktoken"):
            return _HuggingFace(path)
        if path.name == chatglm_tokenizer.FILE_NAME:
            return chatglm_tokenizer.ChatGLMTokenizer(path)
        return _SentencePiece(path)
    except PreprocessError:
        raise
    except Exception as error:  # both libraries raise plain Exception and RuntimeError
        raise PreprocessError(f"{path} can't be loaded as a tokenizer: {error}") from error


def _load_with_paddlenlp(folder: Path, class_name: str) -> Tokenizer:
    try:
        return PaddleNLPTokenizer(folder, class_name)
    except PreprocessError:
        raise
    except Exception as error:  # any, from the class that the file names
        raise PreprocessError(f"{folder} can't be loaded as a {class_name}: {error}") from error


class _HuggingFace:
    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Loaded

        is_qwen = path.suffix == ".tiktoken"
        self._tokenizer = read_qwen_tiktoken(path) if is_qwen else Loaded.from_file(str(path))
        # A saved tokenizer may cut and pad texts, which would lose and invent tokens.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        self.vocab_size = max(ids, default=-1) + 1
        self.eos_id = self._find_eos(path)
        if is_qwen and self.eos_id is None:
            self.eos_id = self._tokenizer.token_to_id(END_OF_TEXT)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> Ragged:
        # An added token is found before a text is cut into words, which the table can't do.
        return encode_by_table(
            texts, self._table, lambda some: _encode_batch(self._tokenizer, some), self._added
        )

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

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

    @cached_property
    def _added(self) -> re.Pattern[str]:
        added = self._tokenizer.get_added_tokens_decoder().values()
        return re.compile("|".join(re.escape(token.content) for token in added) or r"(?!)")

    def _find_eos(self, path: Path) -> int | None:
        folder = path.parent
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            token = eos_name(read_json(folder / name))
            if token is not None:
                eos = self._tokenizer.token_to_id(token)
                if eos is None:
                    raise PreprocessError(
                        f"{folder / name} names the end-of-document token {token!r}, which "
                        f"{path.name} doesn't have."
                    )
                return eos
        for name in ("generation_config.json", "config.json"):
            eos = read_json(folder / name).get("eos_token_id")
            if isinstance(eos, list) and eos:
                eos = eos[0]
            if isinstance(eos, int) and 0 <= eos < self.vocab_size:
                return eos
        return None


class _SentencePiece:
    def __init__(self, path: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor(model_file=str(path))
        self.vocab_size = int(self._processor.get_piece_size())
        eos = int(self._processor.eos_id())
        self.eos_id = eos if eos >= 0 else None

    @cached_property
    def _table(self) -> WordTable | None:
        split = sentencepiece_split(self._processor)
        return split and WordTable(split, self._encode_words)

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text, out_type=int)

    def encode_batch(self, texts: Sequence[str]) -> Ragged:
        return encode_by_table(texts, self._table, self._encode_texts)

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode(list(ids))

    def _encode_words(self, words: list[str]) -> Ragged:
        # The processor puts the first "▁" before each word itself.
        return Ragged.of(self._encode_texts([word[1:] for word in words]))

    def _encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode(list(texts), out_type=int, num_threads=1)


def _encode_batch(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in encoded]


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
