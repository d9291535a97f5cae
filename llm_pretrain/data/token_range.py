"""The smallest and the largest token id of the data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.errors import DataError
from llm_pretrain.data.token_data import TokenData

# Tokens looked at in one step: the pages behind them can be dropped again.
_CHUNK = 1 << 24


def needs_scan(data: TokenData, vocab_size: int) -> bool:
    """Whether the token type alone leaves open if all ids are below `vocab_size`."""
    limits = np.iinfo(data.tokens.dtype)
    return limits.min < 0 or limits.max >= vocab_size


def scan_token_range(data: TokenData) -> NDArray[np.int64]:
    """[smallest, largest] id, int64 (an id beyond int64 counts as the largest int64)."""
    low, high = 0, 0
    for begin in range(0, len(data.tokens), _CHUNK):
        chunk = data.tokens[begin : begin + _CHUNK]
        if chunk.dtype.kind == "i":
            low = min(low, int(chunk.min()))
        high = max(high, int(chunk.max()))
    return np.array([low, min(high, np.iinfo(np.int64).max)], np.int64)


def check_token_range(data: TokenData, token_range: NDArray[np.int64], vocab_size: int) -> None:
    """Raise DataError where an id has no row in a vocabulary of `vocab_size`."""
    low, high = int(token_range[0]), int(token_range[1])
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise DataError(
            f"{data.files[1]} holds the token id {wrong}, but the model's vocabulary ends at "
            f"{vocab_size - 1} (vocab_size {vocab_size}). The data was made with another "
            "tokenizer: preprocess it again with the model's, or use that tokenizer's model."
        )
