"""`llm-pretrain preprocess`: text files to one pair of `.bin` and `.idx`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.indexed_writer import IndexedWriter
from llm_pretrain.data.npy_dataset import ids_path, npz_path
from llm_pretrain.preprocess.encode import Encoded, EncodeOptions, cut_chunks, encode_chunks
from llm_pretrain.preprocess.errors import PreprocessError
from llm_pretrain.preprocess.readers import FORMATS, ReaderOptions, find_files
from llm_pretrain.preprocess.tokenizers import load_tokenizer

# Skipped records named one by one; the rest are only counted.
_PROBLEMS_SHOWN = 10


_WITHOUT_EFFECT = {
    "data_format": "the ending of a file says its format",
    "data_impl": "there is one format of output, .bin and .idx",
}
"""Arguments of create_pretraining_data.py, and why they change nothing here."""


def main(argv: Sequence[str]) -> int:
    """Run the command with these arguments; returns the exit status, 0, 1 or 2 (usage)."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    for name, reason in _WITHOUT_EFFECT.items():
        if getattr(arguments, name) is not None:
            print(f"--{name}: no effect: {reason}")
    try:
        _run(arguments, sys.stdout)
    except (ValueError, OSError) as error:
        print(f"llm-pretrain preprocess: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    formats = ", ".join(sorted(FORMATS))
    parser = argparse.ArgumentParser(
        prog="llm-pretrain preprocess",
        description="Turn text into the .bin and .idx files that pretraining reads.",
    )
    add = parser.add_argument
    add(
        "--model_name_or_path",
        "--tokenizer_name_or_path",
        required=True,
        metavar="DIRECTORY",
        dest="tokenizer",
        type=Path,
        help="directory with tokenizer.json or a SentencePiece .model",
    )
    add("--input_path", required=True, type=Path, help=f"file or folder of {formats} files")
    add("--output_prefix", required=True, help="path of the output without its ending")
    add("--json_key", default="text", help="key of the text in a line of .jsonl (default: text)")
    add(
        "--separator",
        default="",
        help="line that separates the documents of a .txt file (default: a blank line)",
    )
    add("--append_eos", action="store_true", help="end every document with the EOS token")
    add("--workers", type=_count, default=1, help="processes that tokenize (default: 1)")
    add(
        "--log_interval",
        type=_count,
        default=10000,
        help="documents between two lines of progress (default: 10000)",
    )
    add("--max_doc_num", type=_count, default=None, help="stop after so many documents")
    add(
        "--max_repeated_len",
        type=_natural,
        default=100,
        help="runs of one character longer than this become a single one; 0 keeps them "
        "(default: 100)",
    )
    add(
        "--on_error",
        choices=("fail", "skip"),
        default="fail",
        help="at a record that can't be read (default: fail)",
    )
    for name, reason in _WITHOUT_EFFECT.items():
        add(f"--{name}", help=f"no effect: {reason}")
    return parser


def _run(arguments: argparse.Namespace, out: TextIO) -> None:
    tokenizer = load_tokenizer(arguments.tokenizer)
    if arguments.append_eos and tokenizer.eos_id is None:
        raise PreprocessError(
            f"--append_eos: the tokenizer in {arguments.tokenizer} names no end-of-document token "
            "(eos_token in tokenizer_config.json)."
        )
    prefix = _output_prefix(arguments.output_prefix)
    files, others = find_files(arguments.input_path)
    if others:
        print(f"Left out {len(others)} files of other formats, such as {others[0]}", file=out)
    reader = ReaderOptions(arguments.json_key, arguments.separator)
    options = EncodeOptions(
        arguments.tokenizer, reader, arguments.append_eos, arguments.max_repeated_len
    )
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
    progress = _Progress(out, arguments.log_interval)
    chunks = cut_chunks(files, reader)
    with (
        IndexedWriter(prefix, dtype) as writer,
        closing(encode_chunks(chunks, options, arguments.workers)) as encoded,
    ):
        for tokens, sizes in _selected(encoded, arguments, progress):
            writer.add_documents(tokens, sizes)
            progress.add(len(sizes), len(tokens))
        if progress.documents == 0:
            raise PreprocessError(f"--input_path {arguments.input_path} holds no text.")
    progress.finish(prefix, np.dtype(dtype))


def _output_prefix(text: str) -> Path:
    prefix = Path(text)
    if text.endswith(("/", os.sep)) or not prefix.name:
        raise PreprocessError(f"--output_prefix {text} is a folder; add a name for the files.")
    for older in (ids_path(prefix), npz_path(prefix)):
        if older.exists():
            raise PreprocessError(
                f"{older} is there: training would read this older form in place of the new "
                "files. Remove it, or choose another --output_prefix."
            )
    return prefix


def _selected(
    encoded: Iterator[Encoded], arguments: argparse.Namespace, progress: _Progress
) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.int32]]]:
    """Tokens and sizes of the documents to keep: at most --max_doc_num, problems seen to."""
    for chunk in encoded:
        sizes = chunk.sizes
        room = len(sizes)
        if arguments.max_doc_num is not None:
            room = min(room, arguments.max_doc_num - progress.documents)
        for problem in chunk.problems:
            # What lies behind the last document wanted doesn't matter.
            if problem.document < room or room == len(sizes):
                progress.problem(problem.where, fail=arguments.on_error == "fail")
        progress.text_bytes += chunk.text_bytes
        sizes = sizes[:room]
        yield chunk.tokens[: int(sizes.sum())], sizes
        if progress.documents == arguments.max_doc_num:
            return


class _Progress:
    def __init__(self, out: TextIO, interval: int) -> None:
        self._out = out
        self._interval = interval
        self._begin = time.monotonic()
        self._next = interval
        self.documents = 0
        self.tokens = 0
        self.skipped = 0
        self.text_bytes = 0

    def add(self, documents: int, tokens: int) -> None:
        self.documents += documents
        self.tokens += tokens
        if self.documents >= self._next:
            self._next = (self.documents // self._interval + 1) * self._interval
            print(f"{self.documents:,} documents, {self._speed()}", file=self._out, flush=True)

    def problem(self, where: str, *, fail: bool) -> None:
        if fail:
            raise PreprocessError(f"{where} (--on_error skip goes on without such records)")
        self.skipped += 1
        if self.skipped <= _PROBLEMS_SHOWN:
            print(f"Skipped {where}", file=self._out)

    def finish(self, prefix: Path, dtype: np.dtype) -> None:
        skipped = f", {self.skipped:,} records skipped" if self.skipped else ""
        print(
            f"Wrote {prefix}.bin and {prefix}.idx: {self.documents:,} documents, {self.tokens:,} "
            f"tokens of type {dtype.name}{skipped}, {self._speed()}",
            file=self._out,
        )

    def _speed(self) -> str:
        seconds = max(time.monotonic() - self._begin, 1e-9)
        return f"{self.text_bytes / seconds / 1e6:.1f} MB/s"


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value
