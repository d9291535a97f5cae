"""The language of what a person reads: English, or Chinese by LLM_PRETRAIN_LANG or the locale.

The program speaks English to itself: errors, notices and events are made, logged, compared and sent
to other ranks in it. A text becomes Chinese only where it is shown, by `translated`. The files in
`chinese/` have every line of a message by its module, with `{}` for what is filled in, and beside
it the same in Chinese, or null where it stays as it is. A text is recognized by the messages that
it consists of, one or several in a row; what is not recognized stays English.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "LLM_PRETRAIN_LANG"
FIELD = re.compile(r"\{\d*\}")
_FILES = Path(__file__).parent / "chinese"
_BETWEEN = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|(: |; |, |(?<=[.…]) |  +)')
"""What stands between two messages in a row, but for what is quoted."""
_IN_CHINESE = {": ": "：", "; ": "；", ", ": "，", " ": ""}
_LITERALLY = tuple("\"'`[{")
"""What a value of the user's may begin with, and no message does."""


def language() -> str:
    """ "zh" or "en"."""
    names = (VARIABLE, "LC_ALL", "LC_MESSAGES", "LANG")
    chosen = next((os.environ[name] for name in names if os.environ.get(name)), "")
    return "zh" if chosen.lower().startswith("zh") else "en"


def translated(text: str) -> str:
    """A text for a person, in their language; lines stay lines."""
    if language() == "en":
        return text
    return "\n".join(map(_line, text.split("\n")))


def read_messages() -> dict[str, dict[str, str | None]]:
    """{module: {message: the same in Chinese, or None}}, of all files."""
    found: dict[str, dict[str, str | None]] = {}
    for path in sorted(_FILES.glob("*.json")):
        found |= json.loads(path.read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class _Translation:
    text: str
    recognized: int = 0
    """How many of the letters were those of messages."""


class _Form:
    """A message with something to fill in."""

    def __init__(self, english: str, chinese: str) -> None:
        self.chinese = chinese
        self._literals = FIELD.split(english)
        self.letters = sum(map(len, self._literals))

    def may_be_in(self, text: str) -> bool:
        return all(literal in text for literal in self._literals)

    def values(self, text: str, *, is_strict: bool) -> Sequence[str] | None:
        """What is filled in; None if the text is another message.

        Strictly, what is filled in at either end is not several messages in a row.
        """
        match = (self._strict if is_strict else self._loose).fullmatch(text)
        if match is None or not all(map(_is_whole, match.groups())):
            return None
        return match.groups()

    @functools.cached_property
    def _strict(self) -> re.Pattern[str]:
        return self._pattern(r"((?:(?!: |\. ).)*?)")

    @functools.cached_property
    def _loose(self) -> re.Pattern[str]:
        return self._pattern("(.*?)")

    def _pattern(self, at_the_ends: str) -> re.Pattern[str]:
        fields = ["(.*?)"] * (len(self._literals) - 1)
        if not self._literals[0]:
            fields[0] = at_the_ends
        if not self._literals[-1]:
            fields[-1] = at_the_ends
        pattern = re.escape(self._literals[0])
        for one_field, literal in zip(fields, self._literals[1:], strict=True):
            pattern += one_field + re.escape(literal)
        return re.compile(pattern)


def _is_whole(value: str) -> bool:
    """Whether no bracket or quote of it stands outside."""
    return (
        value.count("(") == value.count(")")
        and value.count("[") == value.count("]")
        and not value.count('"') % 2
    )


@functools.cache
def _catalog() -> tuple[dict[str, str], list[_Form]]:
    """Messages with nothing to fill in, and the others, those of most letters first."""
    exact: dict[str, str] = {}
    forms: dict[str, _Form] = {}
    for messages in read_messages().values():
        for english, chinese in messages.items():
            if chinese is None:
                continue
            if not FIELD.search(english):
                exact[english] = chinese
            elif re.search("[A-Za-z]{2}", english):
                forms[english] = _Form(english, chinese)
    return exact, sorted(forms.values(), key=lambda form: -form.letters)


@functools.lru_cache(maxsize=1024)
def _line(line: str) -> str:
    text = line.lstrip()
    indent = line[: len(line) - len(text)]
    return indent + _messages(text, _catalog()[1]).text


def _messages(text: str, forms: Sequence[_Form]) -> _Translation:
    """A text of one message or of several in a row."""
    forms = [form for form in forms if form.may_be_in(text)]
    breaks = [match.span() for match in _BETWEEN.finditer(text) if match[1]]
    starts, ends = zip(*breaks, strict=True) if breaks else ((), ())
    pieces = [text[end:start] for end, start in zip((0, *ends), (*starts, None), strict=True)]
    found = _in_a_row(pieces, [text[start:end] for start, end in breaks], forms)
    if not found.recognized:
        found = _message(text, forms, is_strict=False) or found
    return found


def _in_a_row(
    pieces: Sequence[str], between: Sequence[str], forms: Sequence[_Form]
) -> _Translation:
    """As many of the pieces as can be, or of those that follow each other together, translated."""
    # From the end on: what is recognized from there, the first translation, where the rest begins.
    best: list[tuple[int, _Translation, int]] = [(0, _Translation(""), len(pieces))]
    for first in reversed(range(len(pieces))):
        best.insert(0, (best[0][0], _Translation(pieces[first]), first + 1))
        text = ""
        for last in range(first, len(pieces)):
            text += (between[last - 1] if last > first else "") + pieces[last]
            message = _message(text, forms, is_strict=True)
            if message is not None:
                recognized = message.recognized + best[last - first + 1][0]
                if recognized > best[0][0]:
                    best[0] = recognized, message, last + 1
    found, at = "", 0
    before = False
    while at < len(pieces):
        _, part, following = best[at]
        if at:
            sign = between[at - 1]
            # A colon parts what it is about from what is said, the others two messages.
            is_ours = best[0][0] if sign == ": " else before and part.recognized
            found += _IN_CHINESE.get(sign, sign) if is_ours else sign
        found += part.text
        before, at = bool(part.recognized), following
    return _Translation(found, best[0][0])


def _message(text: str, forms: Sequence[_Form], *, is_strict: bool) -> _Translation | None:
    """The text as one message; None if it is none."""
    exact = _catalog()[0].get(text)
    if exact is not None:
        return _Translation(exact, len(text))
    best = None
    for form in forms:
        values = form.values(text, is_strict=is_strict)
        if values is not None:
            filled = [_value(value, forms) for value in values]
            recognized = form.letters + sum(each.recognized for each in filled)
            if best is None or recognized > best.recognized:
                same = form.chinese.format(*(each.text for each in filled))
                best = _Translation(same, recognized)
    return best


def _value(text: str, forms: Sequence[_Form]) -> _Translation:
    """What is filled into a message: it may be a message itself, or the user's."""
    if not text or text.startswith(_LITERALLY):
        return _Translation(text)
    forms = [form for form in forms if form.may_be_in(text)]
    # A part of a sentence that follows a word begins with a space.
    return _message(text, forms, is_strict=True) or _messages(text, forms)
