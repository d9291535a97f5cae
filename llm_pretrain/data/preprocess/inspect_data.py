"""`llm-pretrain inspect`: what token files hold, and whether all of it is sound."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from llm_pretrain.config.argument_types import path_word
from llm_pretrain.data.find_data import find_data, open_data
from llm_pretrain.data.preprocess.preprocess_arguments import add_tokenizer, typed_tokenizer
from llm_pretrain.data.preprocess.streams import PreprocessError
from llm_pretrain.data.preprocess.tokenizers import Tokenizer
from llm_pretrain.data.token_data import BLOCK, TokenData, scan_token_range
from llm_pretrain.machine.language import translated
from llm_pretrain.machine.terminal import Command, rjust, shown, width

_BAR = 40
_BESIDE_A_BAR = 64
"""Columns of a line on lengths, without its bar."""
_TOKENS_SHOWN = 60


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit status is 0, 1 where the data is not sound, or 2 (usage)."""
    command = Command("inspect", "Say what .bin and .idx files hold, and check all of it.")
    add = command.add_argument
    prefix = "path of the data without its ending, or a folder"
    add("prefix", metavar="PREFIX", type=path_word, help=prefix)
    add_tokenizer(command, help="directory of the tokenizer, to decode documents and check ids")
    add("--documents", type=int, default=3, help="documents to show (default: 3)")

    def work(arguments: argparse.Namespace) -> None:
        tokenizer = None if arguments.tokenizer is None else typed_tokenizer(arguments)
        for found in find_data(arguments.prefix, "PREFIX").prefixes:
            for line in inspect(open_data(found), tokenizer, arguments.documents):
                print(shown(translated(line), hanging=2))

    return command.run(argv, work)


def inspect(data: TokenData, tokenizer: Tokenizer | None, shown: int) -> Iterator[str]:
    """Lines on data that has been opened, which has checked all pointers and sizes.

    `shown` documents are decoded, or their ids shown without a tokenizer. Raises PreprocessError
    at an id that the tokenizer doesn't have.
    """
    unit = "documents" if len(data.sizes) == data.documents else "sequences"
    masked = "" if data.mask is None else ", with a loss mask"
    yield f"{', '.join(str(path) for path in sorted(data.files))}"
    yield (
        f"  {data.documents:,} documents, {len(data.sizes):,} sequences, "
        f"{data.token_count:,} tokens of type {data.tokens.dtype.name}{masked}"
    )
    yield from data.notices
    yield "  sizes and pointers: all lie within the files"
    yield from _lengths(data, unit)
    low, high = scan_token_range(data).tolist()
    yield f"  token ids: {low} to {high}"
    chosen = np.unique(np.linspace(0, len(data.sizes) - 1, shown).astype(np.int64)).tolist()
    for sequence in chosen if shown else []:
        yield f"  {unit[:-1]} {sequence}: {_text(data, sequence, tokenizer)}"
    if tokenizer is None:
        yield "  with --model_name_or_path the ids are decoded and checked"
    elif low < 0 or high >= tokenizer.vocab_size:
        raise PreprocessError(
            f"{data.files[1]} holds the token id {low if low < 0 else high}, and the tokenizer's "
            f"largest is {tokenizer.vocab_size - 1}: the data was made with another tokenizer."
        )
    else:
        yield f"  every id is one of the tokenizer's {tokenizer.vocab_size:,}"


def _lengths(data: TokenData, unit: str) -> Iterator[str]:
    """The distribution over powers of two: a bar for the documents, a share of the tokens."""
    counts = np.zeros(33, np.int64)
    tokens = np.zeros(33, np.int64)
    smallest, largest = int(data.sizes[0]), 0
    for begin in range(0, len(data.sizes), BLOCK):
        sizes = data.sizes[begin : begin + BLOCK]
        # 0 is alone, then 1, 2 and 3, 4 to 7, …
        classes = np.frexp(sizes)[1]
        counts += np.bincount(classes, minlength=33)
        tokens += np.bincount(classes, weights=sizes, minlength=33).astype(np.int64)
        smallest, largest = min(smallest, int(sizes.min())), max(largest, int(sizes.max()))
    mean = data.token_count / len(data.sizes)
    yield f"  tokens in one of the {unit}: {smallest:,} to {largest:,}, {mean:,.1f} on average"
    room = max(0, min(_BAR, width() - _BESIDE_A_BAR)) if sys.stdout.isatty() else _BAR
    for length in range(int(largest).bit_length() + 1):
        first, last = (0, 0) if length == 0 else (1 << length - 1, (1 << length) - 1)
        if last < smallest:
            continue
        bar = "#" * -(-room * int(counts[length]) // int(counts.max()))
        share = int(tokens[length]) / data.token_count
        count = int(counts[length])
        of_unit = f"{count:,} documents" if unit == "documents" else f"{count:,} sequences"
        yield (
            f"  {first:>11,} to {last:>11,} {bar:<{room}} {rjust(translated(of_unit), 22)}, "
            f"{share:6.1%} of the tokens"
        )


def _text(data: TokenData, sequence: int, tokenizer: Tokenizer | None) -> str:
    length = min(int(data.sizes[sequence]), _TOKENS_SHOWN)
    ids = data.read(sequence, 0, length)[0].tolist()
    more = " …" if length < data.sizes[sequence] else ""
    if tokenizer is None:
        return " ".join(map(str, ids)) + more
    # An id that the tokenizer lacks decodes to nothing; it is reported by itself.
    known = [token for token in ids if 0 <= token < tokenizer.vocab_size]
    return json.dumps(tokenizer.decode(known), ensure_ascii=False) + more
