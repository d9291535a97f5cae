"""Writer of `.bin/.idx` data (MMIDIDX version 1; the layout is in `indexed_dataset`)."""

from __future__ import annotations

import os
from array import array
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
from llm_pretrain.data.token_data import CHUNK


class IndexedWriter:
    """Writes `<prefix>.bin` and `<prefix>.idx`, and `<prefix>.lsm` where masks are given.

    Everything goes to temporary names first. At the end of the `with` block the old `.idx` is
    removed, then the new files take their names, `.idx` last: at no moment does a half-written
    pair look whole. An exception inside the block leaves the old files as they were.

        with IndexedWriter(Path("data/text"), np.uint16) as writer:
            writer.add_document([5, 7, 9])
    """

    def __init__(
        self, prefix: Path, dtype: type[np.integer] | np.dtype, *, masked: bool = False
    ) -> None:
        self.prefix = prefix
        self.dtype = np.dtype(dtype).newbyteorder("<")
        codes = [code for code, known in TOKEN_TYPES.items() if known == self.dtype]
        if not codes or self.dtype.kind not in "iu":
            raise DataError(f"Tokens can't be written as {self.dtype}: use an integer type.")
        self._code = codes[0]
        self._sizes = array("i")
        self._document_starts = array("q", [0])
        self._files = ExitStack()
        self._temporary: dict[Path, Path] = {}
        prefix.parent.mkdir(parents=True, exist_ok=True)
        self._bin = self._create(bin_path(prefix))
        self._mask = self._create(mask_path(prefix)) if masked else None

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
        self._sizes.append(values.size)

    def end_document(self) -> None:
        """The sequences since the last call are one document."""
        self._document_starts.append(len(self._sizes))

    def add_documents(self, tokens: NDArray[np.integer], sizes: NDArray[np.integer]) -> None:
        """Many documents of one sequence each; `tokens` holds them one after another."""
        assert self._mask is None
        assert int(sizes.sum()) == len(tokens)
        self._bin.write(_checked(tokens, self.dtype).tobytes())
        first = len(self._sizes)
        self._sizes.extend(sizes.tolist())
        self._document_starts.extend(range(first + 1, len(self._sizes) + 1))

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
            self._files.close()
            for path in self._temporary.values():
                path.unlink(missing_ok=True)

    def _create(self, path: Path) -> BinaryIO:
        # The ending is not .bin or .idx, so that nothing takes the file for data.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._temporary[path] = temporary
        return self._files.enter_context(temporary.open("wb"))

    def _finish(self) -> None:
        if self._document_starts[-1] != len(self._sizes):
            raise DataError("The last document was not ended.")
        self._write_index(self._create(index_path(self.prefix)))
        self._files.close()
        index_path(self.prefix).unlink(missing_ok=True)
        if self._mask is None:
            # A mask of older data under the same name would silently apply to the new data.
            mask_path(self.prefix).unlink(missing_ok=True)
        for path, temporary in self._temporary.items():
            os.replace(temporary, path)

    def _write_index(self, file: BinaryIO) -> None:
        sizes = np.frombuffer(self._sizes, np.int32) if self._sizes else np.zeros(0, np.int32)
        starts = np.frombuffer(self._document_starts, np.int64)
        file.write(HEADER.pack(MAGIC, VERSION, self._code, len(sizes), len(starts)))
        file.write(sizes.astype("<i4").tobytes())
        at = 0
        for begin in range(0, len(sizes), CHUNK):
            lengths = sizes[begin : begin + CHUNK].astype(np.int64) * self.dtype.itemsize
            ends = at + np.cumsum(lengths)
            file.write((ends - lengths).astype("<i8").tobytes())
            at = int(ends[-1])
        file.write(starts.astype("<i8").tobytes())


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
