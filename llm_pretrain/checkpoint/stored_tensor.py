"""A tensor in a file, read by parts, and the types of its values.

bfloat16 has no NumPy type; its bits stand in uint16 arrays, as Paddle's `numpy()` gives them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}
"""The types that weights may have."""
_TILE = 256


class UnreadableFileError(ValueError):
    """A file that is not what its name says; the message says why, without the file's name."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file; its values are read when they are asked for."""

    dtype: str
    """A name of `NUMPY_TYPES`, or that of a type which is not read."""
    shape: tuple[int, ...]
    array: Callable[[], np.ndarray]
    """The values, a view of the memory-mapped file where the format allows it."""

    def read(self, block: tuple[slice | np.ndarray, ...]) -> np.ndarray:
        """A part of the tensor as it is stored; bfloat16 as its bits in uint16.

        Raises:
            UnreadableFileError: another type.
        """
        if self.dtype not in NUMPY_TYPES:
            raise UnreadableFileError(
                f"has the type {self.dtype}; {', '.join(NUMPY_TYPES)} are read"
            )
        return self.array()[block]


def to_float32(values: np.ndarray) -> np.ndarray:
    """float32, float16, or bfloat16's bits in uint16, as float32."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(values, dtype=np.float32)


def to_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values of any of the three types in `dtype`, rounded to the nearest, halves to even."""
    if dtype == "bfloat16":
        return values if values.dtype == np.uint16 else _bfloat16_bits(to_float32(values))
    wanted = NUMPY_TYPES[dtype]
    return values if values.dtype == wanted else to_float32(values).astype(wanted, copy=False)


def transpose(matrix: np.ndarray) -> np.ndarray:
    """The transpose in memory of its own, turned tile by tile, as caches like it."""
    result = np.empty(matrix.shape[::-1], dtype=matrix.dtype)
    for row in range(0, matrix.shape[0], _TILE):
        rows = slice(row, row + _TILE)
        for column in range(0, matrix.shape[1], _TILE):
            columns = slice(column, column + _TILE)
            result[columns, rows] = matrix[rows, columns].T
    return result


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16
    # Rounding up would carry a NaN's bits into infinity or zero.
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)
