"""Typed reading of a published config.json, with all of its problems reported at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llm_pretrain.config import ConfigError


class Fields:
    """The keys of one JSON object.

    Each method returns the key's value, or the default where the key is absent or null. A wrong
    value is recorded, and `raise_problems` reports them together; until then the method returns
    a stand-in of the right type.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        source: str,
        *,
        inside: str = "",
        problems: list[str] | None = None,
    ) -> None:
        self.values = values
        self.source = source
        self.inside = inside
        self.problems: list[str] = [] if problems is None else problems

    def problem(self, key: str, text: str) -> None:
        """Record that `key` is wrong."""
        self.problems.append(f"{self.source}: {self.inside}{key}: {text}.")

    def raise_problems(self) -> None:
        if self.problems:
            raise ConfigError(self.problems)

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def first(self, *keys: str) -> str:
        """The first of `keys` that is present, else the first of all."""
        return next(filter(self.has, keys), keys[0])

    def require_supported(self, supported: Mapping[str, tuple[Any, ...]]) -> None:
        """Record a problem for each key that is there and holds none of its supported values."""
        for key, values in supported.items():
            if key in self.values and self.values[key] not in values:
                usable = " or ".join(repr(value) for value in values if value is not None)
                only = f"this program computes {usable} only" if usable else "this is not supported"
                self.problem(key, f"{self.values[key]!r}: {only}")

    def positive_integer(self, key: str, default: int | None = None) -> int:
        value = self._value(key, default)
        if type(value) is int and value > 0:
            return value
        if value is not None:
            self.problem(key, f"{value!r} is not a whole number above zero")
        return 1

    def number(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if type(value) in (int, float) and math.isfinite(value) and value >= 0:
            return float(value)
        if value is not None:
            self.problem(key, f"{value!r} is not a number of zero or more")
        return 1.0

    def optional_number(self, key: str) -> float | None:
        return self.number(key) if self.has(key) else None

    def flag(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        if isinstance(value, bool):
            return value
        self.problem(key, f"{value!r} is neither true nor false")
        return default

    def probability(self, key: str, default: float = 0.0) -> float:
        value = self.number(key, default)
        if value < 1:
            return value
        self.problem(key, f"{value} is not a probability below 1")
        return default

    def share(self, key: str, default: float) -> float:
        """A number from 0 to 1."""
        value = self.number(key, default)
        if value > 1:
            self.problem(key, f"{value} is above 1")
        return value

    def token(self, key: str) -> int | None:
        """A token id; null and the older -1 both mean none."""
        value = self.values.get(key)
        if value is None or value == -1:
            return None
        if type(value) is not int or value < 0:
            self.problem(key, f"{value!r} is not a token id")
            return 0
        return value

    def required_token(self, key: str, vocab_size: int) -> int:
        """A token id of the vocabulary."""
        value = self.token(key)
        if value is None:
            self.problem(key, "is missing")
        elif value >= vocab_size > 1:
            self.problem(key, f"{value} is outside the vocabulary of {vocab_size}")
        return value or 0

    def tokens(self, key: str) -> int | tuple[int, ...] | None:
        """One token id, or several."""
        value = self.values.get(key)
        if not isinstance(value, list):
            return self.token(key)
        if any(type(token) is not int or token < 0 for token in value):
            self.problem(key, f"{value!r} is not a list of token ids")
        return tuple(value)

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            self.problem(key, "is missing")
        return value
