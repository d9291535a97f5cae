"""What was written on the command line or in a file: typed values, and where each stands."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from llm_pretrain.config import keys

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Given:
    """A value that somebody wrote: where, under which spelling."""

    value: Any
    source: str
    place: str
    spelling: str


class Collection:
    """The keys given so far, with all problems and notices on the way."""

    def __init__(self) -> None:
        self.given: dict[str, Given] = {}
        self.problems: list[str] = []
        self.notices: list[str] = []
        self.wrong: set[str] = set()  # keys whose value is not known, for a reason already told
        self.readable = True

    def add(self, written: Sequence[tuple[str, Given]]) -> None:
        """Take the keys of one source, which win over those of earlier ones."""
        here: dict[str, Given] = {}
        for key, given in written:
            if key in here and here[key].value != given.value:
                self.problems.append(
                    f"{given.place}: {given.spelling} and {here[key].spelling} are one key with "
                    "two values; keep one"
                )
            here[key] = given
        self.given.update(here)

    def place(self, about: Sequence[str]) -> str:
        """`file, line: key: ` of the first of the keys that somebody wrote."""
        for key in about:
            if key in self.given:
                given = self.given[key]
                dashes = "--" if given.source == COMMAND_LINE else ""
                return f"{given.place}: {dashes}{given.spelling}: "
        return f"{about[0]} (not given): "


# One text that may reach us as several words, when a shell script leaves out the quotes.
_SPACED = (
    "input_dir",
    "eval_data",
    "sharding",
    "tensor_parallel_config",
    "pipeline_parallel_config",
    "sharding_parallel_config",
    "report_to",
)
_WORDS = {
    "true": True, "yes": True, "t": True, "y": True, "on": True, "1": True,
    "false": False, "no": False, "f": False, "n": False, "off": False, "0": False,
    "none": None, "null": None,
}  # fmt: skip


@dataclass(frozen=True)
class CommandLine:
    """What was typed: the words after each key, the problems, and keys given more than once."""

    words: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)


def read_command_line(arguments: Sequence[str]) -> CommandLine:
    """Words by key, as typed but for `-` between words of a key, which becomes `_`."""
    found = CommandLine()
    key: str | None = None
    for argument in arguments:
        if argument.startswith("--") and len(argument) > 2:
            name, equals, value = argument[2:].partition("=")
            key = name.replace("-", "_")
            if key in found.words:
                found.repeated.append(key)
            found.words[key] = [value] if equals else []
        elif key is None:
            found.problems.append(
                f"command line: {argument!r} belongs to no key; options are --key value"
            )
        else:
            found.words[key].append(argument)
    return found


@functools.cache
def _adapter(key: str) -> TypeAdapter[Any]:
    info = keys.field(key)
    annotated: Any = Annotated[info.annotation, info]
    return TypeAdapter(annotated)


def _accepts(key: str, value: Any) -> bool:
    try:
        _adapter(key).validate_python(value)
    except ValidationError:
        return False
    return True


def typed_value(key: str, words: list[str]) -> Any:
    """The value of `key` that the words stand for, of the type that the key takes.

    A word can be a text, a number, a switch, a list or null; what the key accepts decides. If it
    accepts none, the plainest reading is returned, for the validation's message to show.

    Raises:
        ValueError: no value or too many; the message completes "--key: …".
    """
    known = key in keys.OWNER
    if not words:
        if known and not _accepts(key, True):
            raise ValueError("needs a value")
        return True
    if len(words) > 1 and key in _SPACED:
        words = [" ".join(words)]
    readings = _readings(words)
    if not known:
        return readings[0]
    for reading in readings:
        if _accepts(key, reading):
            return reading
    if len(words) > 1:
        raise ValueError(f"takes one value, but has {len(words)}: {' '.join(words)}")
    return readings[0]


def file_value(key: str, value: Any) -> Any:
    """The value of `key` in a file: where the key takes no such text, the text is read as a word.

    Texts in lists and objects are read one by one. Whatever else the file holds has its type
    already.
    """
    if key not in keys.OWNER or _accepts(key, value):
        return value
    if isinstance(value, str):
        return typed_value(key, [value])
    return _typed_items(value)


def _typed_items(value: Any) -> Any:
    if isinstance(value, list):
        return [_typed_items(item) for item in value]
    if isinstance(value, dict):
        return {key: _typed_items(item) for key, item in value.items()}
    return _scalar(value) if isinstance(value, str) else value


def readings_of(value: Any) -> list[Any]:
    """All that a value in a file or on a command line can stand for, the plainest first."""
    return _readings([value]) if isinstance(value, str) else [value]


def _readings(words: list[str]) -> list[Any]:
    """All values that the words can stand for, the plainest first."""
    if len(words) > 1:
        return [[_scalar(word) for word in words], words]
    word = words[0]
    readings: list[Any] = []
    if word.startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            readings.append(json.loads(word))
    readings.append(_scalar(word))
    if word.lower() in _WORDS:
        readings.append(_WORDS[word.lower()])
    readings += [word, [_scalar(part) for part in word.replace(",", " ").split()]]
    return readings


def _scalar(word: str) -> Any:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
