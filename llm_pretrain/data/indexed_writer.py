"""Writer of `.bin/.idx` data (MMIDIDX version 1, as `indexed_dataset` describes it)."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llm_pretrain.data.indexed_dataset import (
    HEADER,
    MAGIC,
    TOKEN_TYPES,
    VERSION,
    bin_path,
    index_path,
    mask_path,
)
from llm_pretrain.data.token_data import BLOCK, DataError
from llm_pretrain.machine.files import replacing


class IndexedWriter:
    """Writes `<prefix>.bin` and `<prefix>.idx`, and `<prefix>.lsm` where masks are given.

    Everything goes to temporary names first; the files take their own at the end of the `with`
    block. An exception inside it leaves the old files as they were. Memory doesn't grow with what
    is written.

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
        prefix.parent.mkdir(parents=True, exist_ok=True)
        self._opened = ExitStack()
        self._paths: dict[str, Path] = {}
        self._tokens = self._create("tokens")
        self._mask = self._create("mask") if masked else None
        self._sizes = self._create("sizes")
        self._starts = self._create("starts")
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
        self._tokens.write(values.tobytes())
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
        self._tokens.write(_checked(tokens, self.dtype).tobytes())
        if self._mask is not None and mask is not None:
            self._mask.write(mask.tobytes())
        self._sizes.write(sizes.astype(np.int32).tobytes())
        self._starts.write((ends.astype(np.int64) + self._count).tobytes())
        if len(ends):
            self._ended = self._count + int(ends[-1])
        self._count += len(sizes)

    def __enter__(self) -> IndexedWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            # Files first: their buffers may be refused by a full disk once more.
            for path in self._paths.values():
                path.unlink(missing_ok=True)
            self._opened.close()

    def _create(self, kind: str) -> BinaryIO:
        path = self.prefix.with_name(f".{self.prefix.name}.{os.getpid()}.{kind}")
        self._paths[kind] = path
        return self._opened.enter_context(path.open("wb"))

    def _finish(self) -> None:
        if self._ended != self._count:
            raise DataError("The last document was not ended.")
        self._opened.close()
        publish_pair(self.prefix, self.dtype, **self._paths)


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


def publish_pair(
    prefix: Path,
    dtype: np.dtype,
    *,
    tokens: Path,
    sizes: Path,
    starts: Path | None = None,
    mask: Path | None = None,
) -> None:
    """Make a pair of files of numbers, as they were written one after another.

    `tokens` and `mask` become `.bin` and `.lsm`; of `sizes` and `starts`, which stay, `.idx` is
    made as `write_index` says. The old `.idx` goes first and the new one comes last, so that at no
    moment a mixture of old and new looks whole.
    """
    index = index_path(prefix)
    with replacing(index, writer=os.getpid(), flush=False) as unfinished:
        with unfinished.open("wb") as file:
            of_documents = None if starts is None else map_numbers(starts, np.int64)
            write_index(file, dtype, map_numbers(sizes, np.int32), of_documents)
        index.unlink(missing_ok=True)
        if mask is None:
            # A mask of older data under the same name would silently apply to the new data.
            mask_path(prefix).unlink(missing_ok=True)
        else:
            mask.replace(mask_path(prefix))
        tokens.replace(bin_path(prefix))


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


def map_numbers(path: Path, dtype: np.dtype | type[np.integer]) -> NDArray:
    """A file of numbers, mapped; an empty file can't be and gives an empty array."""
    if path.stat().st_size == 0:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r").view(np.ndarray)
