"""`llm-pretrain tokenizer`: a byte-level BPE from any text that `preprocess` reads."""

from __future__ import annotations

import argparse
import heapq
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from llm_pretrain.config.argument_types import path_argument, path_word
from llm_pretrain.data.preprocess.encode import clean_documents
from llm_pretrain.data.preprocess.inputs import FormatOptions, find_sources
from llm_pretrain.data.preprocess.preprocess_arguments import positive_count
from llm_pretrain.data.preprocess.streams import PreprocessError
from llm_pretrain.data.preprocess.tokenizers import find_tokenizer, load_tokenizer
from llm_pretrain.data.preprocess.tokenizers.byte_level import check_vocab_size, train_bpe
from llm_pretrain.data.preprocess.word_split import LLAMA3_PATTERN
from llm_pretrain.machine.files import naming
from llm_pretrain.machine.terminal import Command, say

_MEGABYTE = 10**6


def main(argv: Sequence[str]) -> int:
    """Run the command with these arguments; returns the exit status, 0, 1 or 2 (usage)."""
    command = Command(
        "tokenizer", "Learn a byte-level BPE, with LLaMA 3's pattern of words, from text."
    )
    add = command.add_argument
    inputs = "files, folders or globs, as of preprocess"
    add("--input_path", required=True, nargs="+", type=path_word, help=inputs)
    add("--output_dir", required=True, type=path_argument, help="directory of the tokenizer")
    add("--vocab_size", type=positive_count, default=32000, help="tokens (default: 32000)")
    add("--json_key", default="text", help="key or column of the text (default: text)")
    separator = "line that separates the documents of a .txt file (default: a blank line)"
    add("--separator", default="", help=separator)
    add(
        "--max_text_mb",
        type=positive_count,
        default=500,
        help="learn from a sample of so many million bytes where there is more (default: 500)",
    )
    interval = "documents between two lines of progress (default: 10000)"
    add("--log_interval", type=positive_count, default=10000, help=interval)

    def work(arguments: argparse.Namespace) -> None:
        with naming(arguments.output_dir):
            _run(arguments, sys.stdout)

    return command.run(argv, work)


def _run(arguments: argparse.Namespace, out: TextIO) -> None:
    check_vocab_size(arguments.vocab_size)
    if arguments.output_dir.exists() and not arguments.output_dir.is_dir():
        raise PreprocessError(f"--output_dir {arguments.output_dir} is a file.")
    if find_tokenizer(arguments.output_dir) is not None:
        raise PreprocessError(f"--output_dir {arguments.output_dir} holds a tokenizer already.")
    sources, _ = find_sources(arguments.input_path)
    options = FormatOptions(arguments.json_key, arguments.separator)
    sample = Sample(arguments.max_text_mb * _MEGABYTE)
    for documents, (text, digest, share) in enumerate(clean_documents(sources, options), 1):
        sample.add(text, digest)
        if documents % arguments.log_interval == 0:
            say(f"{documents:,} documents, {share:.1%} read", out)
    if not sample.size:
        raise PreprocessError(f"--input_path {' '.join(arguments.input_path)} holds no text.")
    whole = "all of the text" if sample.is_whole else "a sample of the text"
    megabytes = f"{sample.size / _MEGABYTE:,.1f} MB"
    say(f"Learning from {megabytes}, {whole} without repeated documents", out)
    train_bpe(
        sample.texts(),
        arguments.vocab_size,
        arguments.output_dir,
        pattern=LLAMA3_PATTERN,
        show_progress=sys.stderr.isatty(),
    )
    learned = load_tokenizer(arguments.output_dir).vocab_size
    if learned < arguments.vocab_size:
        say(f"The text has no pairs for more than {learned:,} tokens", out)
    say(f"Wrote {arguments.output_dir}: a tokenizer of {learned:,} tokens", out)


class Sample:
    """Documents of at most `limit` bytes in all, whatever their order and number.

    Of equal documents one is kept, and of all those with the smallest hashes, as many as fit
    (bottom-k sampling, Cohen and Kaplan 2007): every document is as likely as another to be in.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[tuple[int, bytes]] = []
        """A heap: the largest hash, negated, first."""
        self._hashes: set[int] = set()
        self._border: int | None = None
        """Hashes from this on are left out."""
        self.size = 0
        """Bytes that are kept."""

    @property
    def is_whole(self) -> bool:
        return self._border is None

    def add(self, text: str, digest: bytes) -> None:
        """Keep the document, or leave it or others out."""
        number = int.from_bytes(digest, "little")
        if number in self._hashes or (self._border is not None and number >= self._border):
            return
        content = text.encode()
        heapq.heappush(self._kept, (-number, content))
        self._hashes.add(number)
        self.size += len(content)
        while self.size > self._limit and len(self._kept) > 1:
            negated, dropped = heapq.heappop(self._kept)
            self._border = -negated
            self._hashes.remove(-negated)
            self.size -= len(dropped)

    def texts(self) -> Iterator[str]:
        """The documents, in the order of their hashes."""
        for _, content in sorted(self._kept, reverse=True):
            yield content.decode()
