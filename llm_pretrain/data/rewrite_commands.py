"""`llm-pretrain merge`, `split`, and `convert` of token data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from llm_pretrain.config.paths import path_argument, path_word
from llm_pretrain.data.errors import DataError
from llm_pretrain.data.find_data import find_data, open_data
from llm_pretrain.data.npy_dataset import ids_path, npz_path
from llm_pretrain.data.rewrite import merge, split
from llm_pretrain.data.split import one_source_validates
from llm_pretrain.data.token_data import TokenData
from llm_pretrain.machine.faults import describe
from llm_pretrain.machine.terminal import HelpFormatter


def merge_main(argv: Sequence[str]) -> int:
    """Run the command with these arguments; returns the exit status, 0, 1 or 2 (usage)."""
    parser = _parser("merge", "Write several pairs of token files as one, in the order given.")
    add = parser.add_argument
    pairs = "a prefix, or a folder: its pairs by name"
    add("inputs", nargs="*", metavar="INPUT", type=path_word, help=pairs)
    more = "one more INPUT"
    add("--input", action="append", default=[], dest="others", type=path_word, help=more)
    names, without = ("--output_prefix", "--output-prefix"), "without its ending"
    add(*names, required=True, type=path_argument, help=without)
    add("--data_impl", help="no effect: there is one format of output")

    def run(arguments: argparse.Namespace) -> list[TokenData]:
        inputs = [("INPUT", text) for text in arguments.inputs]
        inputs += [("--input", text) for text in arguments.others]
        if not inputs:
            raise DataError("name the prefixes or folders to merge.")
        prefixes = [prefix for name, text in inputs for prefix in find_data(text, name).prefixes]
        parts = [open_data(prefix) for prefix in prefixes]
        merged = merge(parts, arguments.output_prefix)
        said = one_source_validates(prefixes, [part.documents for part in parts])
        if said is not None:
            print(said)
        return [merged]

    return _main(parser, argv, run)


def split_main(argv: Sequence[str]) -> int:
    """Run the command with these arguments; returns the exit status, 0, 1 or 2 (usage)."""
    parser = _parser("split", "Write one pair of token files as several, PREFIX_0 and so on.")
    add = parser.add_argument
    add("prefix", metavar="PREFIX", type=path_word, help="path of the data without its ending")
    add("--shares", required=True, type=_shares, help="of the tokens: 98,1,1, or 1,1 for halves")
    parts = "path of the parts without number (default: PREFIX)"
    add("--output_prefix", type=path_argument, help=parts)

    def run(arguments: argparse.Namespace) -> list[TokenData]:
        prefix = _only_prefix(arguments.prefix)
        output: Path = arguments.output_prefix or prefix
        numbers = range(len(arguments.shares))
        outputs = [output.with_name(f"{output.name}_{number}") for number in numbers]
        return split(prefix, outputs, arguments.shares)

    return _main(parser, argv, run)


def convert_main(argv: Sequence[str]) -> int:
    """Run the command with these arguments; returns the exit status, 0, 1 or 2 (usage)."""
    parser = _parser("convert", "Write PREFIX_ids.npy and PREFIX_idx.npz as .bin and .idx.")
    add = parser.add_argument
    add("prefix", metavar="PREFIX", type=path_word, help="path of the data without its ending")
    add("output", metavar="PREFIX", type=path_argument, help="path of the new files")

    def run(arguments: argparse.Namespace) -> list[TokenData]:
        return [merge([open_data(_only_prefix(arguments.prefix))], arguments.output)]

    return _main(parser, argv, run)


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


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"llm-pretrain {command}", description=description, formatter_class=HelpFormatter
    )


def _main(
    parser: argparse.ArgumentParser,
    argv: Sequence[str],
    run: Callable[[argparse.Namespace], list[TokenData]],
) -> int:
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    try:
        written = run(arguments)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {describe(error)}", file=sys.stderr)
        return 1
    for data in written:
        print(
            f"Wrote {data.prefix}.bin and {data.prefix}.idx: {data.documents:,} documents, "
            f"{data.token_count:,} tokens of type {data.tokens.dtype.name}"
        )
    return 0


def _only_prefix(text: str) -> Path:
    prefixes = find_data(text, "PREFIX").prefixes
    if len(prefixes) > 1:
        raise DataError(f"PREFIX {text} holds {len(prefixes)} pairs: name one of them.")
    return prefixes[0]


def _shares(text: str) -> list[float]:
    shares = [float(word) for word in text.split(",")]
    if len(shares) < 2 or min(shares) <= 0:
        raise argparse.ArgumentTypeError("two or more numbers above 0 are needed, as in 98,1,1")
    return shares
