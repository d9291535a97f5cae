"""Text files as blocks of bytes, decompressed, and the elements of a JSON array in them.

A file that ends too early is an error, not an end.
"""

from __future__ import annotations

import importlib
import re
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

_BLOCK_BYTES = 1 << 20
# Compressed text grows manyfold, so that less of it is read at a time.
_COMPRESSED_BLOCK_BYTES = 1 << 17
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP_FORMAT = 31
# What `zstd --long=31` asks for, the most that it can.
_ZSTANDARD_WINDOW = 1 << 31
# A whole string, a bracket or comma, or the start of a string that goes on behind the buffer.
_SIGN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]|"', re.DOTALL)


class PreprocessError(ValueError):
    """Something is wrong with the text, the tokenizer or the arguments; the message says what."""


def import_extra(package: str, needed: str, extra: str = "preprocess") -> Any:
    """A package of an extra. Raises PreprocessError where it isn't installed.

    `needed`: the message's beginning, such as "Files that end in .zst need".
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise PreprocessError(
            f"{needed} the package {package}: pip install 'llm_pretrain[{extra}]'."
        ) from error


def read_blocks(file: IO[bytes], compression: str) -> Iterator[bytes]:
    """The text in blocks of some MiB at most, a byte order mark at its beginning left out.

    Raises OSError or EOFError where the file is damaged or cut short.
    """
    blocks = COMPRESSIONS[compression](file) if compression else _plain(file)
    first = True
    for block in blocks:
        yield block.removeprefix(_BYTE_ORDER_MARK) if first else block
        first = False


def _plain(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(_BLOCK_BYTES):
        yield block


def _gzip(file: IO[bytes]) -> Iterator[bytes]:
    return _frames(file, lambda: zlib.decompressobj(_GZIP_FORMAT), zlib.error)


def _zstandard(file: IO[bytes]) -> Iterator[bytes]:
    zstandard = import_extra("zstandard", "Files that end in .zst need")
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTANDARD_WINDOW)
    return _frames(file, decompressor.decompressobj, zstandard.ZstdError)


def _frames(file: IO[bytes], begin: Callable[[], Any], damage: type[Exception]) -> Iterator[bytes]:
    """A compressed file is one frame after another; gzip allows zeros behind them."""
    frame = None
    try:
        while data := file.read(_COMPRESSED_BLOCK_BYTES):
            while data:
                if frame is None and not (data := data.lstrip(b"\0")):
                    break
                frame = frame or begin()
                if text := frame.decompress(data):
                    yield text
                data = frame.unused_data
                if frame.eof:
                    frame = None
    except damage as error:
        raise OSError(f"damaged: {error}") from error
    if frame is not None:
        raise EOFError("the compressed file is cut short")


COMPRESSIONS: dict[str, Callable[[IO[bytes]], Iterator[bytes]]] = {
    ".gz": _gzip,
    ".zst": _zstandard,
}


def array_elements(blocks: Iterator[bytes], max_bytes: int) -> Iterator[bytes]:
    """The elements of a JSON array of any length as they are spelled; none of them is parsed.

    Little more than one of them is in memory. Raises ValueError at an element longer than
    `max_bytes`, and EOFError where the array has no end.
    """
    buffer = b""
    start = 0
    """Where the element begins in `buffer`."""
    seen = 0
    """How far `buffer` has been looked at."""
    depth = 0
    for block in blocks:
        if len(buffer) - start > max_bytes:
            raise ValueError(f"an element is longer than {max_bytes >> 20} MiB")
        buffer = buffer[start:] + block
        seen -= start
        start = 0
        for sign in _SIGN.finditer(buffer, seen):
            token = sign.group()
            if token == b'"':
                seen = sign.start()
                break
            seen = sign.end()
            if depth == 1 and token in (b",", b"]"):
                if element := buffer[start : sign.start()].strip():
                    yield element
                start = seen
            if token in (b"[", b"{"):
                depth += 1
                if depth == 1:
                    start = seen
            elif token in (b"]", b"}"):
                depth -= 1
                if depth < 0:
                    raise ValueError("damaged: a bracket closes that never opened")
        else:
            seen = len(buffer)
    if depth:
        raise EOFError("the JSON array has no end")
