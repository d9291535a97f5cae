"""Reading parts of a safetensors file, and writing one as its tensors arrive.

The format: the header's length as a little-endian 64-bit number, the header as JSON (names to
"dtype", "shape" and "data_offsets"), then the values. The safetensors library reads no parts of
bfloat16 tensors into NumPy, and writes only what is in memory whole.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from llm_pretrain.checkpoint.stored_tensor import NUMPY_TYPES, StoredTensor, UnreadableFileError
from llm_pretrain.machine.files import replacing

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
    """A writer of a file that has its name only when it is whole and on the disk.

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


class SafetensorsWriter:
    """Writes a file tensor by tensor.

    Room for the header is kept at the beginning; spaces fill what is left of it, as the format
    allows.
    """

    def __init__(self, file: BinaryIO, reserved: int) -> None:
        self.size = 0
        self._file = file
        self._reserved = reserved
        self._entries: dict[str, dict[str, Any]] = {}
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
        self._file.write(np.ascontiguousarray(values).data)
        self.size += values.nbytes

    def write_header(self, metadata: dict[str, str]) -> None:
        """Say what the file holds, when all of it has been added."""
        header = json.dumps({"__metadata__": metadata, **self._entries}).encode()
        self._file.seek(0)
        self._file.write(struct.pack("<Q", self._reserved) + header.ljust(self._reserved))
