"""Token data to token data: `llm-pretrain merge`, `split`, and `convert` of the older form.

Documents keep their order, their sequences and their loss masks. Little is in memory at a time.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.config.argument_types import path_argument, path_word
from llm_pretrain.data.find_data import find_data, open_data
from llm_pretrain.data.indexed_writer import IndexedWriter
from llm_pretrain.data.npy_dataset import ids_path, npz_path
from llm_pretrain.data.sources import one_source_validates
from llm_pretrain.data.token_data import BLOCK, DataError, TokenData
from llm_pretrain.machine.files import naming
from llm_pretrain.machine.terminal import Command, say

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
    for begin in range(0, len(data.sizes), BLOCK):
        ends = before + np.cumsum(data.sizes[begin : begin + BLOCK], dtype=np.int64)
        # Counts the sequences whose middle is before the wanted place.
        middles = ends - data.sizes[begin : begin + BLOCK] / 2
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
    parts = [data.read(sequence, 0, None) for sequence in range(begin, end)]
    masks = [mask for _, mask in parts if mask is not None]
    return np.concatenate([tokens for tokens, _ in parts]), np.concatenate(masks) if masks else None


def merge_main(argv: Sequence[str]) -> int:
    """Run the command with these arguments; returns the exit status, 0, 1 or 2 (usage)."""
    command = Command("merge", "Write several pairs of token files as one, in the order given.")
    add = command.add_argument
    pairs = "a prefix, or a folder: its pairs by name"
    add("inputs", nargs="*", metavar="INPUT", type=path_word, help=pairs)
    more = "one more INPUT"
    add("--input", action="append", default=[], dest="others", type=path_word, help=more)
    names, without = ("--output_prefix", "--output-prefix"), "without its ending"
    add(*names, required=True, type=path_argument, help=without)
    add("--data_impl", help="no effect: there is one format of output")

    def work(arguments: argparse.Namespace) -> None:
        inputs = [("INPUT", text) for text in arguments.inputs]
        inputs += [("--input", text) for text in arguments.others]
        if not inputs:
            raise DataError("name the prefixes or folders to merge.")
        prefixes = [prefix for name, text in inputs for prefix in find_data(text, name).prefixes]
        parts = [open_data(prefix) for prefix in prefixes]
        merged = merge(parts, arguments.output_prefix)
        said = one_source_validates(prefixes, [part.documents for part in parts])
        if said is not None:
            say(said)
        _say([merged])

    return command.run(argv, work)


def split_main(argv: Sequence[str]) -> int:
    """Run the command with these arguments; returns the exit status, 0, 1 or 2 (usage)."""
    command = Command("split", "Write one pair of token files as several, PREFIX_0 and so on.")
    add = command.add_argument
    add("prefix", metavar="PREFIX", type=path_word, help="path of the data without its ending")
    add("--shares", required=True, type=_shares, help="of the tokens: 98,1,1, or 1,1 for halves")
    parts = "path of the parts without number (default: PREFIX)"
    add("--output_prefix", type=path_argument, help=parts)

    def work(arguments: argparse.Namespace) -> None:
        prefix = _only_prefix(arguments.prefix)
        output: Path = arguments.output_prefix or prefix
        numbers = range(len(arguments.shares))
        outputs = [output.with_name(f"{output.name}_{number}") for number in numbers]
        _say(split(prefix, outputs, arguments.shares))

    return command.run(argv, work)


def convert_main(argv: Sequence[str]) -> int:
    """Run the command with these arguments; returns the exit status, 0, 1 or 2 (usage)."""
    command = Command("convert", "Write PREFIX_ids.npy and PREFIX_idx.npz as .bin and .idx.")
    add = command.add_argument
    add("prefix", metavar="PREFIX", type=path_word, help="path of the data without its ending")
    add("output", metavar="PREFIX", type=path_argument, help="path of the new files")

    def work(arguments: argparse.Namespace) -> None:
        _say([merge([open_data(_only_prefix(arguments.prefix))], arguments.output)])

    return command.run(argv, work)


def asks_for_token_data(argv: Sequence[str]) -> bool:
    """Whether the arguments of `convert` begin with data of the older form, not with weights."""
    if not argv:
        return False
    try:
        path = path_argument(argv[0])
    except argparse.ArgumentTypeError:  # which either command says
        return False
    return any(older(path).exists() for older in (ids_path, npz_path)) or path.name.endswith(
        ("_ids.npy", "_idx.npz")
    )


def _say(written: Sequence[TokenData]) -> None:
    for data in written:
        say(
            f"Wrote {data.prefix}.bin and {data.prefix}.idx: {data.documents:,} documents, "
            f"{data.token_count:,} tokens of type {data.tokens.dtype.name}"
        )


def _only_prefix(text: str) -> Path:
    prefixes = find_data(text, "PREFIX").prefixes
    if len(prefixes) > 1:
        raise DataError(f"PREFIX {text} holds {len(prefixes)} pairs: name one of them.")
    return prefixes[0]


def _shares(text: str) -> list[float]:
    try:
        shares = [float(word) for word in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) < 2 or not min(shares) > 0:
        raise argparse.ArgumentTypeError("two or more numbers above 0 are needed, as in 98,1,1")
    return shares
