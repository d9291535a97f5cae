"""Tokenizers from a directory: Hugging Face's, SentencePiece's, Qwen's and ChatGLM's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from llm_pretrain.preprocess import chatglm_tokenizer
from llm_pretrain.preprocess.byte_level_files import read_byte_level
from llm_pretrain.preprocess.errors import PreprocessError
from llm_pretrain.preprocess.hugging_face_tokenizer import HuggingFaceTokenizer
from llm_pretrain.preprocess.paddlenlp_tokenizer import PaddleNLPTokenizer
from llm_pretrain.preprocess.qwen_tiktoken import read_qwen_tiktoken
from llm_pretrain.preprocess.sentencepiece_tokenizer import SentencePieceTokenizer
from llm_pretrain.preprocess.tokenizer_files import class_for_paddlenlp, find_tokenizer
from llm_pretrain.preprocess.tokenizer_settings import tokenizer_class
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
    if path.name == chatglm_tokenizer.FILE_NAME:
        return chatglm_tokenizer.ChatGLMTokenizer(path)
    if tokenizer_class(path.parent) in chatglm_tokenizer.SECOND:
        return SentencePieceTokenizer(path, chatglm_tokenizer.APPENDED)
    return SentencePieceTokenizer(path)
