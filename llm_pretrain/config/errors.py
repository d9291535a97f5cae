"""The one error that a person's configuration can cause, and what it is made of."""

from __future__ import annotations

from collections.abc import Iterable


class ConfigError(ValueError):
    """One or several problems of a configuration, found together.

    `problems` holds one full sentence each, which names the file and the key where it can.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        assert self.problems, "a ConfigError needs at least one problem"
        super().__init__("\n".join(self.problems))
