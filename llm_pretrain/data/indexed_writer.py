"""Writer of `.bin/.idx` data (MMIDIDX version 1, as `indexed_dataset` describes it)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llm_pretrain.data.errors import DataError
from llm_pretrain.data.indexed_dataset import (
    HEADER,
    MAGIC,
    TOKEN_TYPES,
    VERSION,
    bin_path,
    index_path,
    mask_path,
)
from llm_pretrain.data.token_data import BLOCK


class IndexedWriter:
    """Writes `<prefix>.bin` and `<prefix>.idx`, and `<prefix>.lsm` where masks are given.

    Everything goes to temporary names first. At the end of the `with` block the old `.idx` is
    removed, then the new files take their names, `.idx` last: at no moment does a half-written
    pair look whole. An exception inside the block leaves the old files as they were. Memory
    doesn't grow with what is written.

        with IndexedWriter(Path("data/text"), np.uint16) as writer:
            writer.add_document([5, 7, 9])
    """

    def __init__(
        self, prefix: Path, dtype: type[np.integer] | np.dtype, *, masked: bool = False
    ) -> None:
        self.prefix = prefix
        self.dtype = np.dtype(dtype).newbyteorder("<")
        type_code(self.dtype)
        self._count = 0
        self._ended = 0
        self._files = ExitStack()
        self._temporary: dict[Path, Path] = {}
        prefix.parent.mkdir(parents=True, exist_ok=True)
        self._bin = self._create(bin_path(prefix))
        self._mask = self._create(mask_path(prefix)) if masked else None
        # What `.idx` will be made of; they end with the `with` block.
        self._sizes_path = prefix.with_name(f"{prefix.name}.sizes")
        self._starts_path = prefix.with_name(f"{prefix.name}.starts")
        self._sizes = self._create(self._sizes_path)
        self._starts = self._create(self._starts_path)
        self._starts.write(np.int64(0).tobytes())

    def add_document(self, tokens: ArrayLike, mask: ArrayLike | None = None) -> None:
        """One document of one sequence. `mask`: uint8 per token, 0 where nothing is learned."""
        self.add_sequence(tokens, mask)
        self.end_document()

    def add_sequence(self, tokens: ArrayLike, mask: ArrayLike | None = None) -> None:
        """A part of the current document."""
        values = _checked(np.asarray(tokens), self.dtype)
        if (mask is None) != (self._mask is None):
            raise DataError("Either every sequence has a loss mask or none has.")
        if self._mask is not None:
            flags = np.asarray(mask, np.uint8)
            if flags.shape != values.shape:
                raise DataError(f"{values.size} tokens came with a mask of {flags.size}.")
            self._mask.write(flags.tobytes())
        self._bin.write(values.tobytes())
        self._sizes.write(np.int32(values.size).tobytes())
        self._count += 1

    def end_document(self) -> None:
        """The sequences since the last call are one document."""
        self._starts.write(np.int64(self._count).tobytes())
        self._ended = self._count

    def add_documents(self, tokens: NDArray[np.integer], sizes: NDArray[np.integer]) -> None:
        """Many documents of one sequence each; `tokens` holds them one after another."""
        self.add_sequences(tokens, sizes, np.arange(1, len(sizes) + 1))

    def add_sequences(
        self,
        tokens: NDArray[np.integer],
        sizes: NDArray[np.integer],
        ends: NDArray[np.integer],
        mask: NDArray[np.uint8] | None = None,
    ) -> None:
        """Many sequences at once; `tokens` and `mask` hold them one after another.

        `ends` says behind which of them a document ends: rising numbers from 1 to `len(sizes)`.
        """
        assert int(sizes.sum()) == len(tokens)
        assert (mask is None) == (self._mask is None)
        self._bin.write(_checked(tokens, self.dtype).tobytes())
        if self._mask is not None and mask is not None:
            self._mask.write(mask.tobytes())
        self._sizes.write(sizes.astype(np.int32).tobytes())
        self._starts.write((ends.astype(np.int64) + self._count).tobytes())
        if len(ends):
            self._ended = self._count + int(ends[-1])
        self._count += len(sizes)

    def __enter__(self) -> IndexedWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            # Files first: their buffers may be refused by a full disk once more.
            for path in self._temporary.values():
                path.unlink(missing_ok=True)
            self._files.close()

    def _create(self, path: Path) -> BinaryIO:
        # The ending is not .bin or .idx, so that nothing takes the file for data.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._temporary[path] = temporary
        return self._files.enter_context(temporary.open("wb"))

    def _finish(self) -> None:
        if self._ended != self._count:
            raise DataError("The last document was not ended.")
        index = self._create(index_path(self.prefix))
        self._sizes.flush()
        self._starts.flush()
        write_index(
            index,
            self.dtype,
            map_numbers(self._temporary[self._sizes_path], np.int32),
            map_numbers(self._temporary[self._starts_path], np.int64),
        )
        self._files.close()
        for path in (self._sizes_path, self._starts_path):
            self._temporary.pop(path).unlink()
        replace_pair(self.prefix, self._temporary)


def _checked(tokens: NDArray, dtype: np.dtype) -> NDArray[np.integer]:
    if tokens.ndim != 1:
        raise DataError(f"A sequence must be one row of token ids, not of shape {tokens.shape}.")
    if tokens.size == 0:
        return tokens.astype(dtype)
    limits = np.iinfo(dtype)
    low, high = int(tokens.min()), int(tokens.max())
    if low < limits.min or high > limits.max:
        raise DataError(f"Token ids {low} to {high} don't fit into {dtype.name}.")
    return tokens.astype(dtype, copy=False)


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
    for begin in range(0, len(sizes), BLOCK):
        file.write(sizes[begin : begin + BLOCK].astype("<i4").tobytes())
    at = 0
    for begin in range(0, len(sizes), BLOCK):
        lengths = sizes[begin : begin + BLOCK].astype(np.int64) * dtype.itemsize
        ends = at + np.cumsum(lengths)
        file.write((ends - lengths).astype("<i8").tobytes())
        at = int(ends[-1])
    for begin in range(0, count, BLOCK):
        end = min(begin + BLOCK, count)
        block = np.arange(begin, end) if starts is None else starts[begin:end]
        file.write(block.astype("<i8").tobytes())


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
