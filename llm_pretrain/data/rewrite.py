"""Token data to token data: several pairs as one, one as several, the older form as the newer.

Documents keep their order, their sequences and their loss masks. Little is in memory at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.errors import DataError
from llm_pretrain.data.find_data import open_data
from llm_pretrain.data.indexed_writer import IndexedWriter
from llm_pretrain.data.token_data import CHUNK, TokenData
from llm_pretrain.machine.faults import naming

_SEQUENCES = 1 << 16
_TOKENS = 1 << 22


def merge(parts: Sequence[TokenData], output: Path) -> TokenData:
    """Write the data of all parts, in this order, as one pair of `.bin` and `.idx`.

    Where token types differ, the result's can hold them all. Raises DataError if some of them have
    a loss mask and others not, or if the output is one of the inputs.
    """
    _check_output(output, parts)
    masked = [part for part in parts if part.mask is not None]
    if masked and len(masked) < len(parts):
        without = next(part for part in parts if part.mask is None)
        raise DataError(
            f"{masked[0].prefix} has a loss mask (.lsm) and {without.prefix} has none: give each "
            "of them one, or none."
        )
    dtype = np.result_type(*(part.tokens.dtype for part in parts))
    if dtype.kind not in "iu":
        raise DataError("No integer type holds all ids of both int64 and uint64 data.")
    with naming(output), IndexedWriter(output, dtype, masked=bool(masked)) as writer:
        for part in parts:
            _copy(part, 0, len(part.sizes), writer)
    return open_data(output)


def split(prefix: Path, outputs: Sequence[Path], shares: Sequence[float]) -> list[TokenData]:
    """Write the documents, in order, to several pairs whose tokens are in these shares.

    A pair begins at the document nearest to its share, so that merging them again gives the same
    bytes. Raises DataError where a share is less than a document.
    """
    data = open_data(prefix)
    for output in outputs:
        _check_output(output, [data])
    borders = _borders(data, shares)
    written = []
    for output, (begin, end) in zip(outputs, itertools.pairwise(borders), strict=True):
        is_masked = data.mask is not None
        with naming(output), IndexedWriter(output, data.tokens.dtype, masked=is_masked) as writer:
            _copy(data, begin, end, writer)
        written.append(open_data(output))
    return written


def _check_output(output: Path, inputs: Sequence[TokenData]) -> None:
    if output.name == "":
        raise DataError(f"The output {output} is a folder; add a name for the files.")
    for data in inputs:
        if output.absolute() == data.prefix.absolute():
            raise DataError(f"The output {output} is one of the inputs: choose another name.")


def _borders(data: TokenData, shares: Sequence[float]) -> list[int]:
    """First sequence of each part, then their number."""
    total = sum(shares)
    wanted = np.cumsum(shares)[:-1] / total * data.token_count
    at_tokens = np.zeros(len(wanted), np.int64)
    before = 0
    for begin in range(0, len(data.sizes), CHUNK):
        ends = before + np.cumsum(data.sizes[begin : begin + CHUNK], dtype=np.int64)
        # Counts the sequences whose middle is before the wanted place.
        middles = ends - data.sizes[begin : begin + CHUNK] / 2
        at_tokens += np.searchsorted(middles, wanted)
        before = int(ends[-1])
    starts = data.document_starts
    following = np.searchsorted(starts, at_tokens)
    borders = [0, *starts[following].tolist(), len(data.sizes)]
    if any(end <= begin for begin, end in itertools.pairwise(borders)):
        raise DataError(
            f"{data.prefix} has {data.documents} documents: that is too few for the shares "
            f"{', '.join(f'{share:g}' for share in shares)}."
        )
    return borders


def _copy(data: TokenData, begin: int, end: int, writer: IndexedWriter) -> None:
    """Sequences [begin, end), which hold whole documents."""
    document_ends = data.document_starts[1:]
    while begin < end:
        totals = np.cumsum(data.sizes[begin : min(begin + _SEQUENCES, end)], dtype=np.int64)
        count = max(1, int(np.searchsorted(totals, _TOKENS, side="right")))
        tokens, mask = _gather(data, begin, begin + count)
        first = 0 if begin == 0 else int(np.searchsorted(document_ends, begin, side="right"))
        last = int(np.searchsorted(document_ends, begin + count, side="right"))
        sizes = data.sizes[begin : begin + count]
        writer.add_sequences(tokens, sizes, document_ends[first:last] - begin, mask)
        begin += count


def _gather(
    data: TokenData, begin: int, end: int
) -> tuple[NDArray[np.integer], NDArray[np.uint8] | None]:
    sizes = data.sizes[begin:end].astype(np.int64)
    starts = data.pointers[begin:end] // data.pointer_unit
    if bool((starts[1:] == starts[:-1] + sizes[:-1]).all()):
        place = slice(int(starts[0]), int(starts[-1] + sizes[-1]))
        return data.tokens[place], None if data.mask is None else data.mask[place]
    rows = [data.read(sequence, 0, None) for sequence in range(begin, end)]
    masks = [mask for _, mask in rows if mask is not None]
    return np.concatenate([tokens for tokens, _ in rows]), np.concatenate(masks) if masks else None
