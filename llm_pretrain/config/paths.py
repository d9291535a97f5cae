"""Paths as people write them: `~`, `~user`, `$NAME` and `${NAME}`, as in a shell."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from llm_pretrain.config.argument_types import Text

_VARIABLE = re.compile(r"\$(?:\{([^}]*)\}?|([A-Za-z_]\w*))", re.ASCII)


def expanded(path: str) -> str:
    """The path with a user's home in place of a leading `~`, and variables with their values.

    Raises:
        ValueError: a variable that isn't set, or a user that isn't there.
    """
    return _VARIABLE.sub(_value, _home(path))


def expanded_words(text: str) -> str:
    """The same for each of the words, which may be paths, and for the spaces nothing.

    Raises:
        ValueError: as `expanded`.
    """
    return "".join(map(expanded, re.split(r"(\s+)", text)))


def path_word(text: str) -> str:
    """The type of an argument of a command line that is a path, for argparse."""
    try:
        return expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def path_argument(text: str) -> Path:
    """The same as a `Path`."""
    return Path(path_word(text))


def _home(path: str) -> str:
    home = os.path.expanduser(path)
    user = path.partition("/")[0]
    if home == path and user.startswith("~"):
        raise ValueError(f"{user} in {path!r} names no user; a folder of that name is ./{user}")
    return home


def _value(match: re.Match[str]) -> str:
    written, name = match.group(), match.group(1) or match.group(2) or ""
    if (written != f"${{{name}}}" and written != f"${name}") or not name.isidentifier():
        raise ValueError(f"{written!r} is no variable: write $NAME or ${{NAME}}")
    if name not in os.environ:
        raise ValueError(f"the environment variable {name} is not set, in {match.string!r}")
    return os.environ[name]


PathText = Annotated[Text, AfterValidator(expanded)]
DataPath = Annotated[Text, AfterValidator(expanded_words)]
