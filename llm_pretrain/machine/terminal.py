"""Text for people, in lines no wider than their terminal."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap

_NO_TERMINAL = 80


def width() -> int:
    """Columns of the terminal, or what COLUMNS says; 80 where there is neither."""
    return shutil.get_terminal_size((_NO_TERMINAL, 24)).columns or _NO_TERMINAL


def wrap(line: str, columns: int, hanging: int = 2) -> list[str]:
    """A line as lines of at most `columns`, which go on `hanging` columns deeper.

    Words are kept whole, so that a path can be copied; one that has no room beside what hangs
    deep gets more.
    """
    if len(line) <= columns:
        return [line]
    indent = len(line) - len(line.lstrip())
    if max(map(len, line.split()), default=0) > columns - indent - hanging:
        hanging = min(hanging, 2)
    return textwrap.wrap(
        line,
        columns,
        subsequent_indent=" " * (indent + hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )


def fit(text: str, hanging: int = 0) -> str:
    """A text in the terminal's width: every line of it is wrapped by itself."""
    columns = width()
    lines = text.splitlines()
    return "\n".join(part for line in lines for part in wrap(line, columns, hanging))


def shown(text: str, hanging: int = 2) -> str:
    """A text for the standard output: on a terminal in lines that fit it, elsewhere as it is."""
    return fit(text, hanging) if sys.stdout.isatty() else text


def print_error(problem: str) -> None:
    """A problem on the standard error: on a terminal in lines that fit it, elsewhere in one line,
    which a program can look for."""
    line = f"error: {problem}"
    if sys.stderr.isatty() or "COLUMNS" in os.environ:
        line = fit(line, hanging=2)
    print(line, file=sys.stderr, flush=True)


class HelpFormatter(argparse.HelpFormatter):
    """argparse's, which leaves options with several names and long arguments too wide."""

    def format_help(self) -> str:
        text = super().format_help()
        return f"{fit(text, hanging=2)}\n" if text else text
