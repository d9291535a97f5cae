"""Reader of `.bin/.idx` data, memory-mapped: MMIDIDX version 1, PaddleNLP's and Megatron's.

`.bin` is the tokens, one after another, without a header. `.idx`, little-endian:

    0        9 bytes "MMIDIDX" and two zero bytes
    9        u64 version, 1
    17       u8 code of the token type, see TOKEN_TYPES
    18       u64 N, number of sequences
    26       u64 D, number of documents + 1
    34       int32[N] tokens in each sequence
    34+4N    int64[N] byte at which each sequence begins in `.bin`
    34+12N   int64[D] first sequence of each document, then N
    34+12N+8D  nothing, or int8[N] modes, which Megatron adds to multimodal data

Beside them `.lsm` may hold a loss mask, one byte per token of `.bin`.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.token_data import (
    BLOCK,
    DataError,
    TokenData,
    check_document_starts,
    check_sizes,
    check_token_type,
    map_file,
)

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
TOKEN_TYPES: dict[int, np.dtype] = {
    code: np.dtype(name)
    for code, name in {
        1: "u1",
        2: "i1",
        3: "<i2",
        4: "<i4",
        5: "<i8",
        6: "<f8",
        7: "<f4",
        8: "<u2",
        9: "<u4",
        10: "<u8",
    }.items()
}
_LAZY_MAGIC = b"TNTIDX\x00\x00"


def index_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".idx")


def bin_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".bin")


def mask_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".lsm")


def open_indexed(prefix: Path) -> TokenData:
    """Map `<prefix>.bin`, `<prefix>.idx` and, where there is one, `<prefix>.lsm`.

    Every field is checked against the files' sizes before it is used, so that no index can
    lead outside the data. Raises DataError that names the file.
    """
    idx, bin_ = index_path(prefix), bin_path(prefix)
    for path, other in ((idx, bin_), (bin_, idx)):
        if not path.is_file():
            raise DataError(f"{other} has no {path.name} beside it; both are needed.")
    dtype, sizes, pointers, starts = _read_index(idx)
    check_sizes(sizes, idx)
    check_document_starts(starts, len(sizes), idx)
    tokens = _map_tokens(bin_, dtype)
    end = _check_pointers(sizes, pointers, dtype.itemsize, idx, bin_)
    unused = tokens.nbytes - end
    notices = (
        (f"The last {unused} bytes of {bin_} are not listed in {idx.name} and are not used.",)
        if unused
        else ()
    )
    return TokenData(
        prefix=prefix,
        files=(idx, bin_),
        tokens=tokens,
        sizes=sizes,
        pointers=pointers,
        pointer_unit=dtype.itemsize,
        document_starts=starts,
        mask=_map_mask(mask_path(prefix), len(tokens)),
        notices=notices,
    )


def _read_index(
    path: Path,
) -> tuple[np.dtype, NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    file_size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(HEADER.size)
    if header.startswith(_LAZY_MAGIC):
        raise DataError(
            f"{path} is in the `lazy` format, which is not supported: preprocess the text again "
            "with `llm-pretrain preprocess`."
        )
    if len(header) < HEADER.size or not header.startswith(MAGIC):
        raise DataError(f"{path} is not an index of .bin data: it doesn't begin with MMIDIDX.")
    _, version, code, sequences, starts = HEADER.unpack(header)
    if version != VERSION:
        raise DataError(f"{path} is of version {version}; only version {VERSION} is known.")
    if code not in TOKEN_TYPES:
        raise DataError(f"{path} has the unknown token type {code}; known are 1 to 10.")
    dtype = TOKEN_TYPES[code]
    check_token_type(dtype, path)
    expected = HEADER.size + 12 * sequences + 8 * starts
    if file_size not in (expected, expected + sequences):
        raise DataError(
            f"{path} is truncated or damaged: its header ({sequences} sequences, "
            f"{starts - 1} documents) asks for {expected} bytes, the file has {file_size}."
        )
    if sequences == 0:
        raise DataError(f"{path} lists no documents.")
    raw = _map(path, np.dtype("u1"))
    at = HEADER.size

    def take(count: int, name: str) -> NDArray:
        nonlocal at
        array = np.frombuffer(raw, np.dtype(name), count, at)
        at += array.nbytes
        return array

    return dtype, take(sequences, "<i4"), take(sequences, "<i8"), take(starts, "<i8")


def _map(path: Path, dtype: np.dtype) -> NDArray:
    try:
        return map_file(path, dtype)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be mapped into memory: {error}") from error


def _map_tokens(path: Path, dtype: np.dtype) -> NDArray[np.integer]:
    size = path.stat().st_size
    if size == 0 or size % dtype.itemsize:
        raise DataError(
            f"{path} is truncated or damaged: it has {size} bytes, and a token of its index's "
            f"type {dtype.name} takes {dtype.itemsize}."
        )
    return _map(path, dtype)


def _check_pointers(
    sizes: NDArray[np.int32],
    pointers: NDArray[np.int64],
    itemsize: int,
    idx: Path,
    bin_: Path,
) -> int:
    """Byte in `.bin` at which the last sequence ends."""
    limit = bin_.stat().st_size
    last = 0
    for begin in range(0, len(sizes), BLOCK):
        block = pointers[begin : begin + BLOCK]
        # A token's size is a power of two. Of several numbers the disjunction has the sign, and
        # the bits below that power, if one of them has.
        bits = int(np.bitwise_or.reduce(block))
        if bits < 0 or bits & (itemsize - 1):
            raise DataError(f"{idx} is damaged: it points into a token, or before the first.")
        last = max(last, int(block.max()))
        # A sequence may only begin within the file, so the sum can't overflow.
        if last <= limit:
            ends = block + sizes[begin : begin + BLOCK].astype(np.int64) * itemsize
            last = max(last, int(ends.max()))
        if last > limit:
            raise DataError(
                f"{bin_} is truncated, or {idx.name} is damaged or belongs to another file: a "
                f"sequence ends at byte {last} or beyond, the file has {limit}."
            )
    return last


def _map_mask(path: Path, tokens: int) -> NDArray[np.uint8] | None:
    if not path.exists():
        return None
    size = path.stat().st_size
    if size != tokens:
        raise DataError(
            f"{path} has {size} bytes, but the loss mask must have one for each of the {tokens} "
            "tokens beside it."
        )
    return _map(path, np.dtype("u1"))
