"""The files of a directory's tokenizer: which one it is read from, and what goes along.

Saved weights take with them whatever belongs to their tokenizer or to generation.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from llm_pretrain.machine.files import replacing
from llm_pretrain.preprocess.tokenizers.byte_level import BYTE_LEVEL_CLASSES
from llm_pretrain.preprocess.tokenizers.settings import read_json, tokenizer_class

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
