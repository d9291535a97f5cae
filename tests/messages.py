"""What the program's modules say: the texts of more than a word in their source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from llm_pretrain.config import keys

PACKAGE = Path(__file__).parent.parent / "llm_pretrain"
FIELD = re.compile(r"\{[^{}]*\}")
PROSE = re.compile(
    r"[A-Za-z]{2,}\S*\s+\S*[A-Za-z]{2,}|\{\}\S*\s.*[A-Za-z]{3,}|[A-Za-z]{2,}.*\s.*\{\}"
)
"""Two words or more, or a word and something that is filled in."""


def messages(module: Path) -> list[str]:
    """The lines of texts, in their order, each once, with `{}` for whatever is filled in."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    left_out = set(_left_out(tree))
    found = dict[str, None]()
    for node in ast.walk(tree):
        for line in _text(node).split("\n") if node not in left_out else ():
            text = line.strip() if line.startswith("  ") else line
            if PROSE.search(text) and not {*text.split()} <= keys.KNOWN:
                found[text] = None
    return [*found]


def fields(text: str) -> int:
    return len(FIELD.findall(text))


def _left_out(tree: ast.AST) -> Iterator[ast.AST]:
    """What nobody reads on a screen: docstrings, assertions, and parts of f-strings, which count
    as a whole."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value
        elif isinstance(node, ast.Assert) and node.msg is not None:
            yield from ast.walk(node.msg)
        elif isinstance(node, ast.JoinedStr):
            for part in node.values:
                if isinstance(part, ast.FormattedValue):
                    if part.format_spec is not None:
                        yield from ast.walk(part.format_spec)
                else:
                    yield part


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return FIELD.sub("{}", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            FIELD.sub("{}", str(part.value)) if isinstance(part, ast.Constant) else "{}"
            for part in node.values
        )
    return ""
