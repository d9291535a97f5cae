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
_LARGEST = {"float16": 65504.0, "bfloat16": 2.0**127 * (2 - 2.0**-7)}
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
    """Values of any of the three types in `dtype`, rounded to the nearest, halves to even.

    Infinities and NaN stay what they are.

    Raises:
        OverflowError: a finite value is beyond the largest of `dtype`.
    """
    wanted = NUMPY_TYPES[dtype]
    if values.dtype == wanted:
        return values
    single = to_float32(values)
    if dtype == "bfloat16":
        result = _bfloat16_bits(single)
        is_infinite = result & 0x7FFF == 0x7F80
    else:
        with np.errstate(over="ignore"):
            result = single.astype(wanted, copy=False)
        is_infinite = np.isinf(result)
    lost = single[is_infinite]
    lost = lost[np.isfinite(lost)]
    if lost.size:
        wider = "float32 reaches" if dtype == "bfloat16" else "bfloat16 and float32 reach"
        raise OverflowError(
            f"has values up to {np.abs(lost).max():.6g} in size, and {dtype} holds none beyond "
            f"{_LARGEST[dtype]:.6g}; {wider} further"
        )
    return result


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
