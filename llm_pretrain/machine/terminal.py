"""Text for people, in their language and in lines no wider than their terminal, and the command
lines that they type."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

from llm_pretrain.machine.files import describe
from llm_pretrain.machine.language import translated

_NO_TERMINAL = 80


def width() -> int:
    """Columns of the terminal, or what COLUMNS says; 80 where there is neither."""
    return shutil.get_terminal_size((_NO_TERMINAL, 24)).columns or _NO_TERMINAL


def wrap(line: str, columns: int, hanging: int = 2) -> list[str]:
    """A line as lines of at most `columns`, which go on `hanging` columns deeper.

    Words are kept whole, so that a path can be copied; one that has no room beside what hangs
    deep gets more.
    """
    if columns_of(line) <= columns:
        return [line]
    indent = len(line) - len(line.lstrip())
    if max(map(len, line.split()), default=0) > columns - indent - hanging:
        hanging = min(hanging, 2)
    if columns_of(line) > len(line):
        return _wrap_wide(line, columns, indent, hanging)
    return textwrap.wrap(
        line,
        columns,
        subsequent_indent=" " * (indent + hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )


def columns_of(text: str) -> int:
    """The columns that a text takes: signs of Chinese take two."""
    return len(text) + sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)


def ljust(text: str, columns: int) -> str:
    """`str.ljust` in columns of the screen."""
    return text + " " * (columns - columns_of(text))


def rjust(text: str, columns: int) -> str:
    """`str.rjust` in columns of the screen."""
    return " " * (columns - columns_of(text)) + text


_WIDE = r"[\u2e80-\ua4cf\uf900-\ufaff\uff01-\uff60\U00020000-\U0003ffff]"
_TOGETHER = re.compile(rf"\s+|[（《“]*(?:{_WIDE}|(?:(?!{_WIDE})\S)+)[，。：；、）》”？！…]*")
"""Spaces; a Chinese sign or a word, with the punctuation that may not begin or end a line."""


def _wrap_wide(line: str, columns: int, indent: int, hanging: int) -> list[str]:
    """`wrap` for Chinese, which may be broken between any two signs."""
    lines, current = [], ""
    for part in _TOGETHER.findall(line):
        if current.strip() and columns_of(current + part.rstrip()) > columns:
            lines.append(current.rstrip())
            current = " " * (indent + hanging) + part.lstrip()
        else:
            current += part
    return [*lines, current.rstrip()]


def fit(text: str, hanging: int = 0) -> str:
    """A text in the terminal's width: every line of it is wrapped by itself."""
    columns = width()
    lines = text.splitlines()
    return "\n".join(part for line in lines for part in wrap(line, columns, hanging))


def shown(text: str, hanging: int = 2) -> str:
    """A text for the standard output: on a terminal in lines that fit it, elsewhere as it is."""
    return fit(text, hanging) if sys.stdout.isatty() else text


def say(text: str, stream: TextIO | None = None) -> None:
    """A text in the reader's language, by default on the standard output."""
    print(translated(text), file=stream, flush=True)


def print_error(problem: str) -> None:
    """A problem on the standard error: on a terminal in lines that fit it, elsewhere in one line,
    which a program can look for."""
    print_beside(f"error: {problem}")


def print_beside(line: str) -> None:
    """What is no result, on the standard error, as `print_error` has it."""
    line = translated(line)
    if sys.stderr.isatty() or "COLUMNS" in os.environ:
        line = fit(line, hanging=2)
    print(line, file=sys.stderr, flush=True)


class Command(argparse.ArgumentParser):
    """`llm-pretrain NAME` with its arguments."""

    def __init__(self, name: str, description: str, **options: Any) -> None:
        super().__init__(
            prog=f"llm-pretrain {name}",
            description=description,
            formatter_class=_HelpFormatter,
            **options,
        )

    def run(self, words: Sequence[str], work: Callable[[argparse.Namespace], None]) -> int:
        """Do the work that the words ask for: the exit status 0, 1 for an error of theirs or of the
        system's, said in a sentence, or 2 for a wrong command line."""
        try:
            arguments, unknown = self.parse_known_args(words)
            if unknown:
                self.error(f"unrecognized arguments: {' '.join(unknown)}{self._hint(unknown[0])}")
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 2
        try:
            work(arguments)
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            print_beside(f"{self.prog}: {describe(error)}")
            return 1
        return 0

    def error(self, message: str) -> NoReturn:
        """argparse's, in lines that fit the terminal."""
        self.print_usage(sys.stderr)
        print_beside(f"{self.prog}: error: {message}")
        self.exit(2)

    def _hint(self, word: str) -> str:
        """The option that was meant instead of `word`, if there is one like it."""
        known = [spelling for action in self._actions for spelling in action.option_strings]
        near = difflib.get_close_matches(word.partition("=")[0], known, n=1)
        return f"; did you mean {near[0]}?" if near else ""


class _HelpFormatter(argparse.HelpFormatter):
    """argparse's in the reader's language, and in lines that fit: it leaves options with several
    names and long arguments too wide, and Chinese, which has no spaces to break lines at."""

    def format_help(self) -> str:
        text = super().format_help()
        return f"{fit(text, hanging=2)}\n" if text else text

    def start_section(self, heading: str | None) -> None:
        super().start_section(heading and translated(f"{heading}:").rstrip(":："))

    def add_text(self, text: str | None) -> None:
        super().add_text(text and translated(" ".join(text.split())))

    def _format_usage(self, *parts: Any) -> str:
        return translated(super()._format_usage(*parts))

    def _expand_help(self, action: argparse.Action) -> str:
        return translated(super()._expand_help(action))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap(text, width, 0)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in wrap(text, width, 0))
