"""Reading parts of a safetensors file, and writing one as its tensors arrive.

The format: the header's length as a little-endian 64-bit number, the header as JSON (names to
"dtype", "shape" and "data_offsets"), then the values. The safetensors library reads no parts of
bfloat16 tensors into NumPy, and writes only what is in memory whole.

bfloat16 has no NumPy type; its bits stand in uint16 arrays, as Paddle's `numpy()` gives them.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from llm_pretrain.checkpoint.directory import flush_file

_NUMPY_OF: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_CODE_OF = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_RESERVED_HEADER = 64 * 1024
_LARGEST_ENTRY = 512


class UnreadableFileError(ValueError):
    """A file that is not what its name says; the message says why, without the file's name."""


class Entry(NamedTuple):
    """A tensor of a file."""

    code: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsReader:
    """The tensors of one file, memory-mapped.

    Raises:
        UnreadableFileError: not a whole safetensors file.
    """

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 0 < length <= size - 8:
                raise UnreadableFileError("its header is cut off, or it is no safetensors file")
            header = file.read(length)
        self.entries, self.metadata = _parse_header(header, size - 8 - length)
        self._values = (
            np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)
            if (size > 8 + length)
            else np.empty(0, dtype=np.uint8)
        )

    def read(self, name: str, block: tuple[slice | np.ndarray, ...]) -> np.ndarray:
        """A part of a tensor as float32, which holds every value of the types read."""
        entry = self.entries[name]
        if entry.code not in _NUMPY_OF:
            raise UnreadableFileError(
                f"{name} has the type {entry.code}; F32, F16 and BF16 are read"
            )
        stored: np.ndarray = np.ndarray(
            entry.shape, _NUMPY_OF[entry.code], buffer=self._values, offset=entry.begin
        )
        return to_float32(stored[block])


def _parse_header(header: bytes, values_size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    try:
        parsed = json.loads(header)
        metadata = dict(parsed.get("__metadata__", {}))
        entries = {
            name: Entry(fields["dtype"], tuple(fields["shape"]), *fields["data_offsets"])
            for name, fields in parsed.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UnreadableFileError("its header can't be understood") from None
    for name, entry in entries.items():
        numbers = (*entry.shape, entry.begin, entry.end)
        if any(type(number) is not int or number < 0 for number in numbers):
            raise UnreadableFileError(f"the header's entry for {name} can't be understood")
        if entry.end > values_size:
            raise UnreadableFileError(f"it ends before the values of {name}")
        dtype = _NUMPY_OF.get(entry.code)
        if dtype and entry.end - entry.begin != math.prod(entry.shape) * dtype.itemsize:
            raise UnreadableFileError(f"the size of {name} does not fit its shape")
    return entries, metadata


class SafetensorsWriter:
    """Writes a file tensor by tensor; it has its name only when it is whole and on the disk.

    Room for the header is kept at the beginning; spaces fill what is left of it, as the format
    allows.

    Args:
        tensors: how many will come at most; by default as many as fit a header of 64 KiB.
    """

    def __init__(self, path: Path, tensors: int | None = None) -> None:
        self.path = path
        self.size = 0
        self._reserved = _RESERVED_HEADER if tensors is None else (tensors + 1) * _LARGEST_ENTRY
        self._entries: dict[str, dict[str, Any]] = {}
        self._unfinished = path.with_name(path.name + ".writing")
        self._file = self._unfinished.open("wb")
        self._file.seek(8 + self._reserved)

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
        self._file.write(np.ascontiguousarray(values).data)
        self.size += values.nbytes

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._file.close()
            self._unfinished.unlink(missing_ok=True)
            return
        # transformers refuses files that don't say which framework's layout they have.
        header = json.dumps({"__metadata__": {"format": "pt"}, **self._entries}).encode()
        self._file.seek(0)
        self._file.write(struct.pack("<Q", self._reserved) + header.ljust(self._reserved))
        self._file.close()
        flush_file(self._unfinished)
        os.replace(self._unfinished, self.path)


def to_float32(values: np.ndarray) -> np.ndarray:
    """float32, float16, or bfloat16's bits in uint16, as float32."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(values, dtype=np.float32)


def to_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values of any of the three types in `dtype`, rounded to the nearest, halves to even."""
    if dtype == "bfloat16":
        return values if values.dtype == np.uint16 else _bfloat16_bits(to_float32(values))
    return to_float32(values).astype(_NUMPY_OF[_CODE_OF[dtype]], copy=False)


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16
    # Rounding up would carry a NaN's bits into infinity or zero.
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def itemsize(dtype: str) -> int:
    """Bytes of one value."""
    return _NUMPY_OF[_CODE_OF[dtype]].itemsize


def names_of(entries: Sequence[str], limit: int = 8) -> str:
    """A list for an error message, cut where it would get long."""
    shown = ", ".join(entries[:limit])
    return shown if len(entries) <= limit else f"{shown} and {len(entries) - limit} more"
