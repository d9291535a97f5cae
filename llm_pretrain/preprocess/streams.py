"""Compressed files as blocks of bytes. A file that ends too early is an error, not an end."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from llm_pretrain.preprocess.errors import PreprocessError

_BLOCK_BYTES = 1 << 20
# Compressed text grows manyfold, so that less of it is read at a time.
_ZSTANDARD_BLOCK_BYTES = 1 << 17
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# What `zstd --long=31` asks for, the most that it can.
_ZSTANDARD_WINDOW = 1 << 31


def read_blocks(file: IO[bytes], compression: str) -> Iterator[bytes]:
    """The text in blocks of some MiB at most, a byte order mark at its beginning left out.

    Raises OSError or EOFError where the file is damaged or cut short.
    """
    blocks = COMPRESSIONS[compression](file) if compression else _plain(file)
    first = True
    for block in blocks:
        yield block.removeprefix(_BYTE_ORDER_MARK) if first else block
        first = False


def _plain(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while block := file.read(_BLOCK_BYTES):
        yield block


def _gzip(file: IO[bytes]) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield from _plain(unpacked)
    except zlib.error as error:
        raise OSError(f"damaged: {error}") from error


def _zstandard(file: IO[bytes]) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError as error:
        raise PreprocessError(
            "Files that end in .zst need the package zstandard: "
            "pip install 'llm_pretrain[preprocess]'."
        ) from error
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTANDARD_WINDOW)
    frame = None
    try:
        while data := file.read(_ZSTANDARD_BLOCK_BYTES):
            # A file is one frame after another; the library's own reader stops behind the first.
            while data:
                frame = frame or decompressor.decompressobj()
                if text := frame.decompress(data):
                    yield text
                data = frame.unused_data
                if frame.eof:
                    frame = None
    except zstandard.ZstdError as error:
        raise OSError(f"damaged: {error}") from error
    if frame is not None:
        raise EOFError("the compressed file is cut short")


COMPRESSIONS: dict[str, Callable[[IO[bytes]], Iterator[bytes]]] = {
    ".gz": _gzip,
    ".zst": _zstandard,
}
