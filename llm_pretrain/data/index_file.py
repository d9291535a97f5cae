"""Writing `.idx`, and putting a new pair in the place of an old one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.errors import DataError
from llm_pretrain.data.indexed_dataset import (
    HEADER,
    MAGIC,
    TOKEN_TYPES,
    VERSION,
    index_path,
    mask_path,
)
from llm_pretrain.data.token_data import CHUNK


def type_code(dtype: np.dtype) -> int:
    """The code of a token type in `.idx`. Raises DataError for what is no integer type."""
    for code, known in TOKEN_TYPES.items():
        if known == dtype.newbyteorder("<") and known.kind in "iu":
            return code
    raise DataError(f"Tokens can't be written as {dtype}: use an integer type.")


def write_index(
    file: BinaryIO,
    dtype: np.dtype,
    sizes: NDArray[np.int32],
    starts: NDArray[np.int64] | None = None,
) -> None:
    """Write an index of sequences that lie one after another in `.bin`.

    `sizes` are their tokens, `starts` the first sequence of each document and then their number;
    None makes each sequence a document. Both may be mapped files: little of them is in memory.
    """
    count = len(sizes) + 1 if starts is None else len(starts)
    file.write(HEADER.pack(MAGIC, VERSION, type_code(dtype), len(sizes), count))
    for begin in range(0, len(sizes), CHUNK):
        file.write(sizes[begin : begin + CHUNK].astype("<i4").tobytes())
    at = 0
    for begin in range(0, len(sizes), CHUNK):
        lengths = sizes[begin : begin + CHUNK].astype(np.int64) * dtype.itemsize
        ends = at + np.cumsum(lengths)
        file.write((ends - lengths).astype("<i8").tobytes())
        at = int(ends[-1])
    for begin in range(0, count, CHUNK):
        end = min(begin + CHUNK, count)
        chunk = np.arange(begin, end) if starts is None else starts[begin:end]
        file.write(chunk.astype("<i8").tobytes())


def replace_pair(prefix: Path, temporary: Mapping[Path, Path]) -> None:
    """Give new files the names of the pair at `prefix`: `temporary[name]` becomes `name`.

    The old `.idx` goes first and the new one comes last, so that at no moment a mixture of old
    and new looks whole.
    """
    index = index_path(prefix)
    index.unlink(missing_ok=True)
    if mask_path(prefix) not in temporary:
        # A mask of older data under the same name would silently apply to the new data.
        mask_path(prefix).unlink(missing_ok=True)
    for path in sorted(temporary, key=lambda path: path == index):
        os.replace(temporary[path], path)


def map_numbers(path: Path, dtype: np.dtype | type[np.integer]) -> NDArray:
    """A file of numbers, mapped; an empty file can't be and gives an empty array."""
    if path.stat().st_size == 0:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r").view(np.ndarray)
