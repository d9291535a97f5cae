"""The command line of `llm-pretrain preprocess`."""

from __future__ import annotations

import argparse
import os
from typing import Any

from llm_pretrain.config.argument_types import path_argument, path_word
from llm_pretrain.data.preprocess.parts import Part
from llm_pretrain.data.preprocess.streams import PreprocessError
from llm_pretrain.data.preprocess.tokenizers import Tokenizer, load_tokenizer
from llm_pretrain.machine.terminal import Command

_MOST_WORKERS_UNASKED = 16
_LONE = "there is one format of output, .bin and .idx"
_SENTENCES = "a document is kept whole, since a causal model learns from whole documents"
WITHOUT_EFFECT = {
    "data_format": "the ending of a file says its format",
    "data_impl": _LONE,
    "tokenizer_name": "the tokenizer's files say what kind it is",
    "split_sentences": _SENTENCES,
    "chinese": _SENTENCES,
    "cn_splited": "text that has spaces between its words is read as it is",
    "no-merge": _LONE,
    "no-shuffle": "documents keep their order; training shuffles them",
}
"""Arguments of PaddleNLP's programs, and why they change nothing here."""
_FLAGS = ("split_sentences", "chinese", "cn_splited", "no-merge", "no-shuffle")


def preprocess_command() -> Command:
    """The command with all of its arguments."""
    command = Command(
        "preprocess",
        "Turn text into the .bin and .idx files that pretraining reads.",
        # An abbreviation could be taken for another program's argument.
        allow_abbrev=False,
    )
    add = command.add_argument
    add_tokenizer(
        command,
        "--model_name",
        required=True,
        help="directory with tokenizer.json or a SentencePiece .model",
    )
    inputs = "files, folders or globs"
    add("--input_path", required=True, nargs="+", type=path_word, help=inputs)
    prefix = "path of the output without its ending"
    add("--output_prefix", required=True, type=path_word, help=prefix)
    add("--json_key", default="text", help="key or column of the text (default: text)")
    add(
        "--separator",
        "--doc_spliter",
        default="",
        help="line that separates the documents of a .txt file (default: a blank line)",
    )
    add("--append_eos", action="store_true", help="end every document with the EOS token")
    add(
        "--workers",
        type=positive_count,
        default=min(len(os.sched_getaffinity(0)), _MOST_WORKERS_UNASKED),
        help=f"processes that tokenize (default: one a core, to {_MOST_WORKERS_UNASKED})",
    )
    add(
        "--log_interval",
        type=positive_count,
        default=10000,
        help="documents between two lines of progress (default: 10000)",
    )
    add(
        "--part",
        type=_part,
        metavar="I/N",
        help="do the I-th of N parts of the inputs, on one of several machines that share a disk",
    )
    add(
        "--join_parts",
        type=positive_count,
        metavar="N",
        help="make the output of N parts that are done, as if there had been one machine",
    )
    add(
        "--engine",
        choices=("ray",),
        help="ray: the inputs in parts on a Ray cluster whose machines share a disk, or on this "
        "machine where none runs; --workers processes for a part",
    )
    add("--max_doc_num", type=positive_count, default=None, help="stop after so many documents")
    add(
        "--max_repeated_len",
        type=natural_number,
        default=100,
        help="runs of one character longer than this become a single one; 0 keeps them "
        "(default: 100)",
    )
    add(
        "--min_doc_length",
        type=natural_number,
        default=0,
        help="leave out documents of fewer characters (default: 0)",
    )
    add("--remove_duplicates", action="store_true", help="keep the first of equal documents alone")
    add("--sample_share", type=share, default=1.0, help="share of documents to keep (default: 1)")
    add(
        "--held_out_share",
        type=share,
        default=0.0,
        help="share of documents to write to held_out/ beside the output (default: 0)",
    )
    add(
        "--cn_whole_word_segment",
        action="store_true",
        help="separate the words of Chinese text with --cn_split_dimer",
    )
    add("--cn_seg_func", choices=("jieba",), default="jieba", help="what finds the words")
    add("--cn_split_dimer", default=" ", help="what separates the words (default: a space)")
    add(
        "--on_error",
        choices=("fail", "skip"),
        default="fail",
        help="at a record that can't be read (default: fail)",
    )
    for name, reason in WITHOUT_EFFECT.items():
        action = "store_true" if name in _FLAGS else "store"
        add(f"--{name}", action=action, default=None, dest=name, help=f"no effect: {reason}")
    return command


class _Tokenizer(argparse.Action):
    """Keeps which of its spellings was typed, for error messages."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        namespace.tokenizer, namespace.tokenizer_option = values, option


def add_tokenizer(parser: argparse.ArgumentParser, *spellings: str, **settings: Any) -> None:
    """The argument that names a directory with a tokenizer."""
    parser.add_argument(
        "--model_name_or_path",
        "--tokenizer_name_or_path",
        *spellings,
        action=_Tokenizer,
        metavar="DIRECTORY",
        dest="tokenizer",
        type=path_argument,
        **settings,
    )


def typed_tokenizer(arguments: argparse.Namespace) -> Tokenizer:
    """The tokenizer that was typed. Raises PreprocessError that names the argument."""
    try:
        return load_tokenizer(arguments.tokenizer)
    except PreprocessError as error:
        raise PreprocessError(f"{arguments.tokenizer_option}: {error}") from error


def _part(text: str) -> Part:
    try:
        return Part.read(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not I/N, with I from 1 to N") from None


def positive_count(text: str) -> int:
    """A number of things of which one is wanted at least."""
    value = _whole_number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def natural_number(text: str) -> int:
    """A number that may be 0."""
    value = _whole_number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    """A number, which may be infinite or none."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def share(text: str) -> float:
    """A part of a whole."""
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not from 0 to 1")
    return value
