"""The error of preprocessing."""

from __future__ import annotations


class PreprocessError(ValueError):
    """Something is wrong with the text, the tokenizer or the arguments; the message says what."""
