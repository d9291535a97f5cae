"""The types of arguments, how messages show their values, and the error of a configuration.

In paths `~`, `~user`, `$NAME` and `${NAME}` mean what they mean in a shell.
"""

from __future__ import annotations

import argparse
import os
import re
import reprlib
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

_VARIABLE = re.compile(r"\$(?:\{([^}]*)\}?|([A-Za-z_]\w*))", re.ASCII)


class ConfigError(ValueError):
    """One or several problems of a configuration, found together.

    `problems` holds one full sentence each, which names the file and the key where it can.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        assert self.problems, "a ConfigError needs at least one problem"
        super().__init__("\n".join(self.problems))


class Arguments(BaseModel):
    """A frozen set of arguments; an argument that does not exist is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


def shown(value: Any) -> str:
    """A value as an error message shows it, cut short where it is long or deep."""
    return reprlib.repr(value)


def _flag(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    raise ValueError(f"{shown(value)} is not a switch: write true or false (or 1 or 0)")


def _integer(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{shown(value)} is not a whole number")
    if abs(value) >= 1 << 63:
        raise ValueError(f"{shown(value)} is too large")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{shown(value)} is not a number")
    return float(value)


def _text(value: Any) -> Any:
    return _prose(value, allowed="")


def _prose(value: Any, allowed: str = "\n\t") -> Any:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not a text")
    signs = (sign for sign in value if sign not in allowed)
    if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in signs):
        raise ValueError(f"{shown(value)} holds control characters")
    return value


# Published files write switches as true and as 1, so both are JSON here; text never is a number.
Flag = Annotated[
    bool,
    BeforeValidator(_flag),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": [0, 1]}]}),
]
Integer = Annotated[int, BeforeValidator(_integer)]
Number = Annotated[float, BeforeValidator(_number)]
Text = Annotated[str, BeforeValidator(_text)]
Prose = Annotated[str, BeforeValidator(_prose)]
"""Text that may have several lines."""


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
