"""Memory of the host that holds a copy of a rank's state, and outlives the rank where its launcher
keeps it.

A rank writes its checkpoints from there (`checkpoint.background`). When ranks form anew, whoever
needs a file of the last checkpoint takes its values from the copy, if any rank of the same host
left one: a file system that a thousand ranks share is asked for headers alone. Copies say whose
they are; that one holds what the checkpoint does, its checksum tells.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from crc32c import crc32c

from llm_pretrain.checkpoint.checksums import Checksum

_MADV_POPULATE_WRITE = 23
_BLOCK_BYTES = 512
"""Of `st_blocks`, by POSIX."""
_LENGTH = struct.Struct("<Q")
"""Ends a memory: the bytes of JSON before it, which say what the memory holds."""
_lent: list[int] = []
"""Descriptors of the launcher's memories, by the ranks' numbers on this host."""
_own: list[int] = []
"""Descriptors of memories that are this process's own."""
_neighbours: list[int] = []
"""Descriptors of memories that hold copies of another host's, and change after this process's
first save of an epoch."""
_may_read_neighbours = False


@dataclass(frozen=True)
class ArrayInMemory:
    """An array in shared memory."""

    name: str
    dtype: str
    """NumPy's name; bfloat16 stands as its bits in uint16."""
    shape: tuple[int, ...]
    offset: int
    """In bytes."""

    def values(self, memory: mmap.mmap) -> np.ndarray:
        """A view of the memory."""
        return np.ndarray(self.shape, self.dtype, memory, self.offset)


class HostMemory:
    """Memory that other processes can map by its descriptor; it has no name to leave behind.

    It is the launcher's, if that has lent some, and else this process's own.

    Args:
        size: in bytes.
        file: the name of this rank's file of the optimizer's state.
        shards: what the memory will hold of it, in the file's order.
    """

    def __init__(self, size: int, file: str, shards: Sequence[ArrayInMemory]) -> None:
        self._is_lent = bool(_lent)
        if self._is_lent:
            self.descriptor = _lent[_number_here()]
        else:
            self.descriptor = os.memfd_create("llm_pretrain_state")
            _own.append(self.descriptor)
        listed = [(array.name, array.dtype, array.shape, array.offset) for array in shards]
        contents = json.dumps({"file": file, "shards": listed}).encode()
        end = contents + _LENGTH.pack(len(contents))
        os.ftruncate(self.descriptor, size + len(end))
        self.map = mmap.mmap(self.descriptor, size + len(end))
        self.map[size:] = end
        self._is_populated = False

    def populate(self) -> None:
        """Have the system make all pages at once, which is faster than one at a time."""
        if self._is_populated:
            return
        self._is_populated = True
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(address), ctypes.c_size_t(len(self.map)), _MADV_POPULATE_WRITE
        )

    def place(self, entry: ArrayInMemory) -> np.ndarray:
        """The memory of an entry."""
        place: np.ndarray = np.ndarray(entry.shape, entry.dtype, self.map, entry.offset)
        return place

    def close(self) -> None:
        """Give it back, but for what the launcher keeps."""
        if not self._is_lent:
            _own.remove(self.descriptor)
            os.close(self.descriptor)


def lend(descriptors: Sequence[int], neighbours: Sequence[int] = ()) -> None:
    """Have the ranks of this host copy their state to memory of the launcher's, one each, in
    order; `neighbours` are memories with copies of what another host's ranks have there."""
    _lent.extend(descriptors)
    _neighbours.extend(neighbours)


def begin() -> None:
    """An epoch begins, and nothing was saved in it."""
    global _may_read_neighbours
    _may_read_neighbours = True


def saving() -> None:
    """A save begins, after which the launcher may change the copies of other hosts' memories."""
    global _may_read_neighbours
    _may_read_neighbours = False


def copies() -> int:
    """How many copies of a rank's state the memory of hosts has: its own, and a neighbour's."""
    return 2 if _neighbours else 1


def taken_bytes() -> int:
    """What the memories for a copy of this rank's state, and of a neighbour's, hold already."""
    number = _number_here()
    memories = [held[number] for held in (_lent, _neighbours) if held]
    return sum(os.fstat(memory).st_blocks * _BLOCK_BYTES for memory in memories)


def copied_file(path: Path, expected: Checksum) -> dict[str, np.ndarray] | None:
    """The arrays of a rank's file, as a copy of its state in memory of this host has them.

    Args:
        path: the file; of its contents the header alone is read.
        expected: its checksum, which the copy must have.

    Returns:
        Views of the memory, by name; None where no copy is what the file was written from.
    """
    neighbours = _neighbours if _may_read_neighbours else []
    for descriptor in (*_lent, *_own, *neighbours):
        arrays = _arrays_of(descriptor, path)
        if arrays and _checksum(path, arrays, expected.size) == expected:
            return arrays
    return None


def _arrays_of(descriptor: int, path: Path) -> dict[str, np.ndarray]:
    """What a memory says it holds of a file, {} where it is of another one."""
    size = os.fstat(descriptor).st_size
    if size < _LENGTH.size:
        return {}
    memory = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
    (length,) = _LENGTH.unpack_from(memory, size - _LENGTH.size)
    try:
        contents = json.loads(memory[max(size - _LENGTH.size - length, 0) : size - _LENGTH.size])
        if contents["file"] != path.name:
            return {}
        arrays = (ArrayInMemory(name, *entry) for name, *entry in contents["shards"])
        return {array.name: array.values(memory) for array in arrays}
    except (ValueError, KeyError, TypeError):  # its rank was killed as it wrote that
        return {}


def _checksum(path: Path, arrays: Mapping[str, np.ndarray], size: int) -> Checksum | None:
    """Of a file that has the header of `path` and those values; None where they don't fit it."""
    header_size = size - sum(values.nbytes for values in arrays.values())
    if header_size <= 0:
        return None
    try:
        with path.open("rb") as file:
            crc = crc32c(file.read(header_size))
    except OSError:
        return None
    for values in arrays.values():
        crc = crc32c(values.view(np.uint8).data, crc)
    return Checksum(size, f"{crc:08x}")


def _number_here() -> int:
    return int(os.environ.get("PADDLE_RANK_IN_NODE", "0"))
