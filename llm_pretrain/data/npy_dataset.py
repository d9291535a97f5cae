"""The older form of the data: `<prefix>_ids.npy` and `<prefix>_idx.npz`.

`_ids.npy` is all tokens, 1-D. `_idx.npz` holds `lens` (tokens in each sequence) and `docs` (first
sequence of each document, then their number). Nothing is unpickled.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.token_data import (
    DataError,
    TokenData,
    check_document_starts,
    check_sizes,
    check_token_type,
    map_npy,
    read_npy_header,
)


def ids_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + "_ids.npy")


def npz_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + "_idx.npz")


def open_npy(prefix: Path) -> TokenData:
    """Map the tokens and read the lengths. Raises DataError that names the file."""
    ids, npz = ids_path(prefix), npz_path(prefix)
    for path, other in ((npz, ids), (ids, npz)):
        if not path.is_file():
            raise DataError(f"{other} has no {path.name} beside it; both are needed.")
    tokens = _map_ids(ids)
    sizes, starts = _read_npz(npz, "lens"), _read_npz(npz, "docs")
    if len(sizes) == 0:
        raise DataError(f"{npz} lists no documents.")
    total = check_sizes(sizes, npz)
    check_document_starts(starts, len(sizes), npz)
    if total > len(tokens):
        raise DataError(
            f"{ids} is truncated, or {npz.name} belongs to another file: {total} tokens are "
            f"listed, the file has {len(tokens)}."
        )
    pointers = np.zeros(len(sizes), np.int64)
    np.cumsum(sizes[:-1], dtype=np.int64, out=pointers[1:])
    unused = len(tokens) - total
    return TokenData(
        prefix=prefix,
        files=(npz, ids),
        tokens=tokens,
        sizes=sizes.astype(np.int32),
        pointers=pointers,
        pointer_unit=1,
        document_starts=starts,
        notices=(
            (f"The last {unused} tokens of {ids} are not listed in {npz.name} and are not used.",)
            if unused
            else ()
        ),
    )


def _map_ids(path: Path) -> NDArray[np.integer]:
    try:
        tokens = map_npy(path)
    except Exception as error:  # a damaged header raises almost anything
        raise DataError(f"{path} is not a readable .npy file: {error}") from error
    if tokens.ndim != 1 or tokens.size == 0:
        raise DataError(f"{path} must hold one row of token ids and at least one.")
    check_token_type(tokens.dtype, path)
    return tokens


def _read_npz(path: Path, name: str) -> NDArray[np.int64]:
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as file:
                _check_length(file, member.file_size)
            with archive.open(member) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
    except DataError:
        raise
    except KeyError as error:
        raise DataError(f"{path} lacks the array `{name}`.") from error
    except Exception as error:  # zip, zlib and header errors share no base class
        raise DataError(f"{path} is not a readable .npz file: {error}") from error
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"`{name}` in {path} must be one row of integers.")
    if array.dtype == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise DataError(f"`{name}` in {path} holds numbers beyond int64.")
    return array.astype(np.int64, copy=False)


def _check_length(file: IO[bytes], size: int) -> None:
    """Compare the shape that the header claims with the bytes there are, before any allocation."""
    shape, _, dtype = read_npy_header(file)
    claimed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed != size - file.tell():
        raise ValueError(f"the header claims {claimed} bytes, there are {size - file.tell()}")
