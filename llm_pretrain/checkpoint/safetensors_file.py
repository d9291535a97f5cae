"""Tensors in files, read by parts; a safetensors file read so, and written as its tensors arrive.

The format: the header's length as a little-endian 64-bit number, the header as JSON (names to
"dtype", "shape" and "data_offsets"), then the values. The safetensors library reads no parts of
bfloat16 tensors into NumPy, and writes only what is in memory whole.

bfloat16 has no NumPy type; its bits stand in uint16 arrays, as Paddle's `numpy()` gives them.
"""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from crc32c import crc32c

from llm_pretrain.machine.files import flush_file, replacing

NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}
"""The types that weights may have."""
_LARGEST = {"float16": 65504.0, "bfloat16": 2.0**127 * (2 - 2.0**-7)}
_TILE = 256
_BLOCK_BYTES = 1 << 16
_SENT_BYTES = 1 << 26


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


_DTYPE_OF = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "U16": "bfloat16"}
"""Names of `NUMPY_TYPES` by the format's. PaddleNLP writes bfloat16's bits as 16-bit integers."""
_CODE_OF = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_RESERVED_HEADER = 64 * 1024
_LARGEST_ENTRY = 512


class SafetensorsFile(NamedTuple):
    """The tensors of a file by name, memory-mapped, and what the file says of itself."""

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]


def read_safetensors(path: Path) -> SafetensorsFile:
    """The contents of a file.

    Raises:
        UnreadableFileError: not a whole safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= size - 8:
            raise UnreadableFileError("its header is cut off, or it is no safetensors file")
        header = file.read(length)
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        parsed = json.loads(header)
        metadata = dict(parsed.pop("__metadata__", {}))
        fields = {
            name: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
            for name, entry in parsed.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UnreadableFileError("its header can't be understood") from None
    values = content[8 + length :]
    return SafetensorsFile(
        {name: _stored(name, values, *entry) for name, entry in fields.items()}, metadata
    )


def _stored(name: str, values: memoryview, code: Any, shape: Any, *offsets: Any) -> StoredTensor:
    numbers = (*shape, *offsets)
    if len(offsets) != 2 or any(type(number) is not int or number < 0 for number in numbers):
        raise UnreadableFileError(f"the header's entry for {name} can't be understood")
    begin, end = offsets
    if end > len(values):
        raise UnreadableFileError(f"it ends before the values of {name}")
    dtype = _DTYPE_OF.get(code)
    if dtype is None:
        return StoredTensor(code, shape, lambda: np.frombuffer(values[begin:end], np.uint8))
    if end - begin != math.prod(shape) * NUMPY_TYPES[dtype].itemsize:
        raise UnreadableFileError(f"the size of {name} does not fit its shape")
    array: np.ndarray = np.ndarray(shape, NUMPY_TYPES[dtype], buffer=values, offset=begin)
    return StoredTensor(dtype, shape, lambda: array)


@contextmanager
def writing_safetensors(
    path: Path, tensors: int | None = None, framework: str = "pt"
) -> Iterator[SafetensorsWriter]:
    """A writer of a file that has its name only when it is whole and on the disk, and when what is
    read back from there is what was written.

    Args:
        tensors: how many will come at most; by default as many as fit a header of 64 KiB.
        framework: whose names the tensors have, as the file says of itself. Some programs refuse
            files that don't say so.
    """
    reserved = _RESERVED_HEADER if tensors is None else (tensors + 1) * _LARGEST_ENTRY
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        writer = SafetensorsWriter(file, reserved)
        yield writer
        writer.write_header({"format": framework})
        file.flush()
        writer.compare_with(unfinished)


class SafetensorsWriter:
    """Writes a file tensor by tensor.

    Room for the header is kept at the beginning; spaces fill what is left of it, as the format
    allows.
    """

    def __init__(self, file: BinaryIO, reserved: int) -> None:
        self.size = self._sent = 0
        self._file = file
        self._reserved = reserved
        self._entries: dict[str, dict[str, Any]] = {}
        self._crc = self._header_crc = 0
        """CRC-32C of the values, and of what stands before them."""
        file.seek(8 + reserved)

    def has_room(self, size: int, limit: int) -> bool:
        """Whether a tensor of `size` bytes fits: below `limit`, or the file is still empty."""
        if not self._entries:
            return True
        fits_header = len(json.dumps(self._entries)) + _LARGEST_ENTRY < self._reserved
        return fits_header and self.size + size <= limit

    def add(self, name: str, values: np.ndarray, dtype: str) -> None:
        """Append a tensor that is in `dtype` already."""
        assert len(name) < _LARGEST_ENTRY // 2, name
        self._entries[name] = {
            "dtype": _CODE_OF[dtype],
            "shape": list(values.shape),
            "data_offsets": [self.size, self.size + values.nbytes],
        }
        content = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        self._crc = crc32c(content, self._crc)
        self._file.write(content)
        self.size += values.nbytes
        if self.size - self._sent >= _SENT_BYTES:
            # Has the system begin to write what it has of the file, and let go of what is written.
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self._sent = self.size

    def write_header(self, metadata: dict[str, str]) -> None:
        """Say what the file holds, when all of it has been added."""
        header = json.dumps({"__metadata__": metadata, **self._entries}).encode()
        content = struct.pack("<Q", self._reserved) + header.ljust(self._reserved)
        self._header_crc = crc32c(content)
        self._file.seek(0)
        self._file.write(content)

    def compare_with(self, path: Path) -> None:
        """Read the file at `path` from its disk.

        Raises:
            OSError: it does not hold what was written.
        """
        flush_file(path)
        crc = size = 0
        block = memoryview(bytearray(_BLOCK_BYTES))
        with path.open("rb", buffering=0) as file:
            # What is on the disk, not what the system still has in memory of it.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            header_crc = crc32c(file.read(8 + self._reserved))
            while count := file.readinto(block):
                crc = crc32c(block[:count], crc)
                size += count
        if (header_crc, crc, size) != (self._header_crc, self._crc, self.size):
            raise OSError(errno.EIO, "what is read back is not what was written", str(path))
