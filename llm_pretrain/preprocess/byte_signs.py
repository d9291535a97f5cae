"""The signs that stand for bytes in byte-level BPE, as GPT-2 has them."""

from __future__ import annotations

import functools
from collections.abc import Mapping


def signs_of_bytes() -> list[str]:
    """The printable sign of each byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def bytes_of(token: str) -> bytes | None:
    """The bytes that a token's signs stand for; None where it has others, as special tokens do."""
    try:
        return bytes(map(_bytes_of_signs().__getitem__, token))
    except KeyError:
        return None


@functools.cache
def _bytes_of_signs() -> Mapping[str, int]:
    return {sign: byte for byte, sign in enumerate(signs_of_bytes())}
