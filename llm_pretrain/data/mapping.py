"""Files as read-only arrays that hold no file descriptor.

Python's mmap keeps a descriptor open for each mapping, so that some hundred data files would reach
the usual limit of 1024. Here the file is closed once it is mapped, and small files are read: with
tens of thousands of files, the number of mappings is limited, too (vm.max_map_count).
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import weakref
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import DTypeLike, NDArray

# Up to this size a file is read instead of mapped.
_SMALL_BYTES = 16 << 10
_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_ssize_t,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def map_file(path: Path, dtype: DTypeLike) -> NDArray:
    """All of a file as one row of `dtype`. Raises OSError, and ValueError for a broken length."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _SMALL_BYTES:
            return np.frombuffer(file.read(), dtype)
        address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    buffer = (ctypes.c_ubyte * size).from_address(address)
    # The array keeps the buffer alive. At exit threads may still read from it.
    weakref.finalize(buffer, _libc.munmap, address, size).atexit = False
    array = np.frombuffer(memoryview(buffer), dtype)
    array.flags.writeable = False
    return array


def map_npy(path: Path) -> NDArray:
    """The array of a `.npy` file of numbers. Raises OSError, and ValueError for anything else."""
    with path.open("rb") as file:
        shape, by_columns, dtype = read_npy_header(file)
        begin = file.tell()
    is_turned = by_columns and len(shape) > 1
    if dtype.hasobject or is_turned or min(shape, default=0) < 0:
        raise ValueError(f"{path} is no array of numbers in rows")
    raw = map_file(path, np.uint8)[begin:]
    wanted = math.prod(shape) * dtype.itemsize
    if raw.nbytes != wanted:
        raise ValueError(f"{path} has {raw.nbytes} bytes of numbers instead of {wanted}")
    return raw.view(dtype).reshape(shape)


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and type of a `.npy` file's array, which follows."""
    if np.lib.format.read_magic(file) == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)
