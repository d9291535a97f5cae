"""What was written, where, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
