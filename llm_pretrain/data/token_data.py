"""Tokens of one data prefix, whatever the format of its files, and the error of their readers.

Files are read-only arrays that hold no file descriptor. Python's mmap keeps a descriptor open for
each mapping, so that some hundred data files would reach the usual limit of 1024. Here the file is
closed once it is mapped, and small files are read: with tens of thousands of files, the number of
mappings is limited, too (vm.max_map_count).
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import weakref
from contextlib import suppress
from dataclasses import dataclass
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


# Block of the vectorised checks: their temporary arrays stay in the processor's cache.
BLOCK = 1 << 16
# Tokens whose range is looked at in one step: the pages behind them can be dropped again.
_SCANNED = 1 << 24


class DataError(ValueError):
    """Something is wrong with the data or with how the config names it.

    The message says what is wrong, in which file or under which key, and what would be right.
    """


@dataclass(frozen=True)
class TokenData:
    """Memory-mapped tokens, cut into sequences.

    A sequence is what one sample index entry calls a document: one text, or one sentence where
    the data was made with sentences split.
    """

    prefix: Path
    """Path of the files without their endings."""
    files: tuple[Path, ...]
    """The files that hold the tokens and their index (not the loss mask)."""
    tokens: NDArray[np.integer]
    """All tokens, 1-D, memory-mapped, in the type of the file."""
    sizes: NDArray[np.int32]
    """Tokens in each sequence, shape [sequences]."""
    pointers: NDArray[np.int64]
    """Where each sequence begins, in units of `tokens per pointer unit`: see `pointer_unit`."""
    pointer_unit: int
    """What `pointers` is to be divided by to give a position in `tokens`."""
    document_starts: NDArray[np.int64]
    """First sequence of each document, then their number, shape [documents + 1]."""
    mask: NDArray[np.uint8] | None = None
    """Loss mask, one byte per token of `tokens`; 0 means that the token is not learned."""
    notices: tuple[str, ...] = ()
    """What a user should know although the data can be read."""

    @property
    def documents(self) -> int:
        """Documents, each of one or several sequences."""
        return len(self.document_starts) - 1

    @property
    def token_count(self) -> int:
        """Tokens in all sequences together."""
        return int(self.sizes.sum(dtype=np.int64))

    def start(self, sequence: int) -> int:
        """Position in `tokens` at which a sequence begins."""
        return int(self.pointers[sequence]) // self.pointer_unit

    def check_length(self) -> None:
        """Raise DataError where the file of the tokens has become shorter than it was.

        Reading past the end of a mapped file would end the process. One that is gone stays mapped.
        """
        path = self.files[1]
        with suppress(FileNotFoundError):
            if os.stat(path).st_size < self.tokens.nbytes:
                raise DataError(
                    f"{path} was cut short or replaced while it was being read. Data must not "
                    "change during a run: start again."
                )

    def read(
        self, sequence: int, offset: int, length: int | None
    ) -> tuple[NDArray[np.integer], NDArray[np.uint8] | None]:
        """Tokens [offset, offset + length) of a sequence and their loss mask.

        `length` None reads to the end of the sequence. Both arrays are views of the file.
        """
        size = int(self.sizes[sequence])
        stop = size if length is None else offset + length
        if not 0 <= offset <= stop <= size:
            raise DataError(
                f"Tokens [{offset}, {stop}) were asked of sequence {sequence} of {self.prefix}, "
                f"which has {size}."
            )
        start = self.start(sequence)
        part = slice(start + offset, start + stop)
        return self.tokens[part], None if self.mask is None else self.mask[part]


def check_sizes(sizes: NDArray[np.integer], path: Path) -> int:
    """Number of tokens that `sizes` adds up to.

    Raises DataError for negative sizes, for sizes beyond int32, and for no token at all.
    """
    total = 0
    for begin in range(0, len(sizes), BLOCK):
        block = sizes[begin : begin + BLOCK]
        if int(block.min()) < 0:
            where = begin + int(np.argmax(block < 0))
            raise DataError(f"{path} is damaged: sequence {where} has {sizes[where]} tokens.")
        if int(block.max()) > np.iinfo(np.int32).max:
            raise DataError(f"{path} has a sequence of more than {np.iinfo(np.int32).max} tokens.")
        total += int(block.sum(dtype=np.int64))
    if total == 0:
        raise DataError(f"{path} lists no tokens: the data is empty.")
    return total


def check_document_starts(starts: NDArray[np.integer], sequences: int, path: Path) -> None:
    """Raise DataError unless `starts` is the first sequence of each document, then the end."""
    if len(starts) < 2:
        raise DataError(f"{path} lists no documents.")
    if int(starts[0]) != 0 or int(starts[-1]) != sequences:
        raise DataError(
            f"{path} is damaged: its documents span the sequences {starts[0]} to {starts[-1]}, "
            f"but it has the sequences 0 to {sequences}."
        )
    for begin in range(0, len(starts) - 1, BLOCK):
        block = starts[begin : begin + BLOCK + 1]
        if bool((block[1:] < block[:-1]).any()):
            raise DataError(f"{path} is damaged: its document starts are not in rising order.")


def check_token_type(dtype: np.dtype, path: Path) -> None:
    """Raise DataError unless `dtype` can hold token ids."""
    if dtype.kind not in "iu":
        raise DataError(f"{path} holds numbers of type {dtype}, but token ids are integers.")


def needs_scan(data: TokenData, vocab_size: int) -> bool:
    """Whether the token type alone leaves open if all ids are below `vocab_size`."""
    limits = np.iinfo(data.tokens.dtype)
    return limits.min < 0 or limits.max >= vocab_size


def scan_token_range(data: TokenData) -> NDArray[np.int64]:
    """[smallest, largest] id, int64 (an id beyond int64 counts as the largest int64)."""
    low, high = 0, 0
    for begin in range(0, len(data.tokens), _SCANNED):
        block = data.tokens[begin : begin + _SCANNED]
        if block.dtype.kind == "i":
            low = min(low, int(block.min()))
        high = max(high, int(block.max()))
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
