"""English text that every Python carries: its reference topics and its library's docstrings."""

from __future__ import annotations

import ast
import inspect
import json
import random
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

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
