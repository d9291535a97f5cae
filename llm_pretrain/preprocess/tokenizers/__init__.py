"""Tokenizers from a directory: Hugging Face's, SentencePiece's, Qwen's and ChatGLM's files.

Those that only PaddleNLP reads come through the extra `paddlenlp`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from llm_pretrain.preprocess.streams import PreprocessError
from llm_pretrain.preprocess.tokenizers.byte_level import read_byte_level, read_qwen_tiktoken
from llm_pretrain.preprocess.tokenizers.hugging_face_tokenizer import HuggingFaceTokenizer
from llm_pretrain.preprocess.tokenizers.sentencepiece_tokenizer import (
    CHATGLM_APPENDED,
    CHATGLM_CLASSES,
    CHATGLM_FILE,
    ChatGLMTokenizer,
    SentencePieceTokenizer,
)
from llm_pretrain.preprocess.tokenizers.settings import tokenizer_class
from llm_pretrain.preprocess.tokenizers.tokenizer_files import class_for_paddlenlp, find_tokenizer
from llm_pretrain.preprocess.words import Ragged


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


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a directory. Raises PreprocessError if there is none, or a damaged one."""
    folder = Path(directory)
    path = find_tokenizer(folder)
    class_name = class_for_paddlenlp(folder)
    try:
        if path is not None:
            return _read(path)
        if class_name is not None:
            return PaddleNLPTokenizer(folder, class_name)
    except PreprocessError:
        raise
    except Exception as error:  # the libraries raise plain Exception and RuntimeError
        raise PreprocessError(
            f"{path or folder} can't be loaded as a {class_name or 'tokenizer'}: {error}"
        ) from error
    reason = "holds no tokenizer" if folder.is_dir() else "is not a directory"
    raise PreprocessError(
        f"{folder} {reason}: expected is a directory with tokenizer.json, tokenizer.model, "
        "qwen.tiktoken, vocab.json and merges.txt, or one other SentencePiece .model."
    )


def _read(path: Path) -> Tokenizer:
    if path.name == "tokenizer.json":
        from tokenizers import Tokenizer as Loaded

        return HuggingFaceTokenizer(Loaded.from_file(str(path)), path)
    if path.name == "qwen.tiktoken":
        return HuggingFaceTokenizer(read_qwen_tiktoken(path), path, end_of_text=True)
    if path.name == "vocab.json":
        return HuggingFaceTokenizer(read_byte_level(path), path, end_of_text=True)
    if path.name == CHATGLM_FILE:
        return ChatGLMTokenizer(path)
    if tokenizer_class(path.parent) in CHATGLM_CLASSES:
        return SentencePieceTokenizer(path, CHATGLM_APPENDED)
    return SentencePieceTokenizer(path)


class PaddleNLPTokenizer:
    """A Tokenizer of the class that the directory's tokenizer_config.json names.

    Raises PreprocessError where the extra isn't installed.
    """

    def __init__(self, folder: Path, class_name: str) -> None:
        try:
            from paddlenlp import transformers
        except ImportError as error:
            raise PreprocessError(
                f"{folder} holds a {class_name}, which only PaddleNLP reads: install the extra, "
                "pip install 'llm_pretrain[paddlenlp]', in an environment of its own."
            ) from error
        # AutoTokenizer doesn't know all of PaddleNLP's classes, GLMBertTokenizer for one.
        found = getattr(transformers, class_name, transformers.AutoTokenizer)
        self._tokenizer = found.from_pretrained(str(folder))
        self.vocab_size = len(self._tokenizer)
        self.eos_id: int | None = self._tokenizer.eos_token_id

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.convert_tokens_to_ids(self._tokenizer.tokenize(text))

    def encode_batch(self, texts: Sequence[str]) -> Ragged:
        return Ragged.of([self.encode(text) for text in texts])

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)
