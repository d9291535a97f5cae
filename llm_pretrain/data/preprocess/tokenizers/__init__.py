"""Tokenizers from a directory: Hugging Face's, SentencePiece's, Qwen's and ChatGLM's files.

Those that only PaddleNLP reads come through the extra `paddlenlp`. Saved weights take with them
whatever belongs to their tokenizer or to generation.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from llm_pretrain.data.preprocess.streams import PreprocessError
from llm_pretrain.data.preprocess.tokenizers.byte_level import (
    BYTE_LEVEL_CLASSES,
    read_byte_level,
    read_qwen_tiktoken,
)
from llm_pretrain.data.preprocess.tokenizers.hugging_face_tokenizer import HuggingFaceTokenizer
from llm_pretrain.data.preprocess.tokenizers.sentencepiece_tokenizer import (
    CHATGLM_APPENDED,
    CHATGLM_CLASSES,
    CHATGLM_FILE,
    ChatGLMTokenizer,
    SentencePieceTokenizer,
)
from llm_pretrain.data.preprocess.tokenizers.settings import read_json, tokenizer_class
from llm_pretrain.data.preprocess.words import Ragged
from llm_pretrain.machine.files import replacing


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

    def token_bytes(self) -> np.ndarray | None:
        """How many bytes of UTF-8 each token stands for, int64 [vocab_size], 0 of special ones;
        None where a token alone doesn't tell."""


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

    def token_bytes(self) -> np.ndarray | None:
        return None


_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_VOCABULARIES = ("tokenizer.json", "*vocab*", "merges.txt", "*.model", "*.tiktoken")
# What changes no id, or is another program's, but belongs to a tokenizer all the same.
_BESIDE_A_TOKENIZER = (
    "tokenizer*",
    "tekken.json",
    "tokenization_*.py",
    "chat_template.*",
    "additional_chat_templates",
)
_FOR_GENERATION = ("generation_config.json", "*generation_utils.py", "custom_generate")
_FOLDERS = ("additional_chat_templates", "custom_generate")
# GPT-3 CPM's cuts Chinese by jieba first; LLaMA 3's tokenizer.model isn't SentencePiece's.
_MODELS_FOR_PADDLENLP = frozenset({"GPTChineseTokenizer", "Llama3Tokenizer"})


def find_tokenizer(directory: str | Path) -> Path | None:
    """The file that the directory's tokenizer is read from; None if it has none.

    `tokenizer.json` comes first, then `tokenizer.model`, `qwen.tiktoken`, `vocab.json` beside
    `merges.txt`, and the only `*.model`. None, too, if only PaddleNLP can read it.
    """
    folder = Path(directory)
    if (folder / "tokenizer.json").is_file():
        return folder / "tokenizer.json"
    class_name = tokenizer_class(folder)
    models = [] if class_name in _MODELS_FOR_PADDLENLP else sorted(folder.glob("*.model"))
    if folder / "tokenizer.model" in models:
        return folder / "tokenizer.model"
    if (folder / "qwen.tiktoken").is_file():
        return folder / "qwen.tiktoken"
    pair = [folder / "vocab.json", folder / "merges.txt"]
    if class_name in BYTE_LEVEL_CLASSES and all(path.is_file() for path in pair):
        return pair[0]
    return models[0] if len(models) == 1 else None


def tokenizer_files(directory: str | Path) -> list[Path]:
    """All files that token ids depend on, settings included, sorted; empty if there are none."""
    return _matching(directory, *_SETTINGS, *_VOCABULARIES)


def files_that_go_along(model: str | Path, tokenizer: str | Path) -> list[Path]:
    """The tokenizer's files in one directory, and those for generation in the model's.

    Chat templates and Python code are among them; some are folders.
    """
    return [
        *_matching(tokenizer, *_SETTINGS, *_VOCABULARIES, *_BESIDE_A_TOKENIZER),
        *_matching(model, *_FOR_GENERATION),
    ]


def copy_along(paths: Iterable[Path], directory: Path) -> set[str]:
    """Copy files and folders to `directory`, but those that are there already.

    Returns:
        The paths of all the files there, below `directory`.
    """
    names: set[str] = set()
    for path in paths:
        target = directory / path.name
        if not (target.exists() and target.samefile(path)):
            if path.is_dir():
                shutil.copytree(path, target, dirs_exist_ok=True, copy_function=shutil.copyfile)
            else:
                with replacing(target) as unfinished:
                    shutil.copyfile(path, unfinished)
        files = target.rglob("*") if path.is_dir() else [target]
        names |= {str(file.relative_to(directory)) for file in files if file.is_file()}
    return names


def _matching(directory: str | Path, *patterns: str) -> list[Path]:
    """The files of a directory that have any of these names, sorted, and the folders meant."""
    found = {path for pattern in patterns for path in Path(directory).glob(pattern)}
    return sorted(path for path in found if path.is_file() or path.name in _FOLDERS)


def class_for_paddlenlp(directory: str | Path) -> str | None:
    """The class of a tokenizer that only PaddleNLP reads; None if there is no such one."""
    folder = Path(directory)
    vocabularies = [path for path in tokenizer_files(folder) if path.name not in _SETTINGS]
    # Byte-level BPE isn't found where merges.txt is missing, which PaddleNLP can't make good.
    is_byte_level = tokenizer_class(folder) in BYTE_LEVEL_CLASSES
    if find_tokenizer(folder) is not None or not vocabularies or is_byte_level:
        return None
    class_name = read_json(folder / "tokenizer_config.json").get("tokenizer_class")
    return class_name if isinstance(class_name, str) else None
