"""A JSON array of any length, element by element, with little more than one of them in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator

# A whole string, a bracket or comma, or the start of a string that goes on behind the buffer.
_SIGN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]|"', re.DOTALL)


def array_elements(blocks: Iterator[bytes], max_bytes: int) -> Iterator[bytes]:
    """The elements as they are spelled; none of them is parsed.

    Raises ValueError at an element longer than `max_bytes`, and EOFError where the array has no
    end.
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
