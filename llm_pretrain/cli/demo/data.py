"""The demo's data: `python -m llm_pretrain.cli.demo.data` makes it without training.

Its text is English that every Python carries: its reference topics and its library's docstrings.
"""

from __future__ import annotations

import ast
import inspect
import json
import random
import shutil
import signal
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llm_pretrain.cli.demo.command import run_command
from llm_pretrain.data.preprocess import train_bpe
from llm_pretrain.machine import SIGNAL_STATUS
from llm_pretrain.machine.terminal import say

CONFIG = Path("configs/llama/demo.json")
FOLDER = Path("output/demo")


def make_data() -> int:
    """Corpus, tokenizer and token files, where no earlier call has finished them; exit status."""
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    prefix = Path(config["input_dir"], "demo")
    tokenizer = Path(config["tokenizer_name_or_path"])
    corpus = FOLDER / "corpus.jsonl"
    pair = (prefix.with_suffix(".bin"), prefix.with_suffix(".idx"))
    # The pair is written last, and gets its names when it is whole.
    if all(path.exists() for path in (corpus, tokenizer / "tokenizer.json", *pair)):
        return 0
    # Of data that are half made nothing is kept.
    for folder in (prefix.parent, tokenizer):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    texts = documents()
    write_corpus(corpus, texts)
    characters = sum(len(text) for text in texts)
    say(f"{corpus}: {characters:,} characters of Python's own documentation")
    train_bpe(iter(texts), vocab_size(config), tokenizer)
    say(f"{tokenizer}: a byte-pair vocabulary of {vocab_size(config)} tokens")
    return run_command(
        ["-m", "llm_pretrain", "preprocess", "--model_name_or_path", str(tokenizer)],
        ["--input_path", str(corpus), "--output_prefix", str(prefix)],
        ["--append_eos", "--workers", "2"],
    )


def vocab_size(config: dict[str, Any]) -> int:
    path = Path(config["model_name_or_path"], "config.json")
    return int(json.loads(path.read_text(encoding="utf-8"))["vocab_size"])


# Installed packages and the library's own tests differ from machine to machine.
SKIPPED = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})
SHORTEST_DOCSTRING = 40


def documents() -> list[str]:
    """The topics and, for each module, its docstrings; each text once.

    The order is shuffled, the same at every call: the evaluation's share is cut from the end.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    found = [_cleaned(text) for _, text in sorted(topics.items())]
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if SKIPPED.isdisjoint(path.relative_to(library).parts):
            texts = [text for text in _docstrings(path) if text not in seen]
            seen.update(texts)
            found.append("\n\n".join(dict.fromkeys(texts)))
    unique = sorted({text for text in found if text})
    random.Random(0).shuffle(unique)
    return unique


def write_corpus(path: Path, texts: Iterable[str]) -> None:
    """Write `path` as JSON lines {"text": ...}."""
    with path.open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"text": text}) + "\n")


def _docstrings(path: Path) -> Iterator[str]:
    """The docstrings of a source file in their order; none where it doesn't parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = _cleaned(ast.get_docstring(node) or "")
            if len(text) >= SHORTEST_DOCSTRING:
                yield text


def _cleaned(text: str) -> str:
    return inspect.cleandoc(text).strip()


if __name__ == "__main__":
    try:
        sys.exit(make_data())
    except KeyboardInterrupt:
        sys.exit(SIGNAL_STATUS + signal.SIGINT)
