"""The error of everything that reads training data."""

from __future__ import annotations


class DataError(ValueError):
    """Something is wrong with the data or with how the config names it.

    The message says what is wrong, in which file or under which key, and what would be right.
    """
