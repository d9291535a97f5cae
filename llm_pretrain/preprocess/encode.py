"""Texts to token ids, in one process or several, in the order of the input.

The records are cut into chunks whose borders depend on the input alone, and the chunks' results
are taken in order; so the output is the same whatever the number of workers. Only a few chunks
are in memory at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.preprocess.errors import PreprocessError
from llm_pretrain.preprocess.readers import ReaderOptions, Record, decode_record, read_records
from llm_pretrain.preprocess.tokenizers import load_tokenizer

_CHUNK_RECORDS = 256
_CHUNK_BYTES = 1 << 20
_CHUNKS_PER_WORKER = 3


@dataclass(frozen=True)
class EncodeOptions:
    tokenizer: Path
    """Directory of the tokenizer."""
    reader: ReaderOptions
    append_eos: bool
    max_repeated_len: int
    """Runs of one character longer than this become a single one; 0 leaves them."""


@dataclass(frozen=True)
class Chunk:
    path: Path
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Problem:
    """A record that has no text."""

    document: int
    """Documents of the chunk that precede it."""
    where: str
    """File, line and what is wrong."""


@dataclass(frozen=True)
class Encoded:
    tokens: NDArray[np.uint32]
    """Ids of all documents of a chunk, one after another."""
    sizes: NDArray[np.int32]
    """Ids in each document, none of them 0: texts without a token are left out."""
    problems: tuple[Problem, ...]
    text_bytes: int


def cut_chunks(files: Iterable[Path], options: ReaderOptions) -> Iterator[Chunk]:
    """All records of the files, in order; a chunk is of one file."""
    for path in files:
        records: list[Record] = []
        size = 0
        for record in read_records(path, options):
            records.append(record)
            size += len(record.raw)
            if len(records) == _CHUNK_RECORDS or size >= _CHUNK_BYTES:
                yield Chunk(path, tuple(records))
                records, size = [], 0
        if records:
            yield Chunk(path, tuple(records))


def encode_chunks(
    chunks: Iterator[Chunk], options: EncodeOptions, workers: int
) -> Generator[Encoded, None, None]:
    """The chunks' results, in order. Raises PreprocessError if a worker dies."""
    if workers == 1:
        yield from map(chunk_encoder(options), chunks)
        return
    # Spawned, not forked: the tokenizer's own threads don't survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (options,))
    pending: deque[Future[Encoded]] = deque()
    try:
        while True:
            room = workers * _CHUNKS_PER_WORKER - len(pending)
            pending.extend(pool.submit(_encode_in_worker, chunk) for chunk in islice(chunks, room))
            if not pending:
                return
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise PreprocessError(
            "A worker process died, perhaps for want of memory. Use fewer --workers."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def chunk_encoder(options: EncodeOptions) -> Callable[[Chunk], Encoded]:
    """A function that encodes one chunk in this process."""
    tokenizer = load_tokenizer(options.tokenizer)
    tail = []
    if options.append_eos:
        assert tokenizer.eos_id is not None
        tail = [tokenizer.eos_id]
    limit = options.max_repeated_len
    repeated = re.compile(rf"(.)\1{{{limit},}}") if limit else None

    def encode(chunk: Chunk) -> Encoded:
        texts: list[str] = []
        bad: dict[int, list[str]] = {}
        for record in chunk.records:
            try:
                text = decode_record(chunk.path, record.raw, options.reader)
            except ValueError as error:
                bad.setdefault(len(texts), []).append(f"{chunk.path}:{record.line}: {error}")
                continue
            text = text.strip()
            texts.append(repeated.sub(r"\1", text) if repeated else text)
        documents: list[list[int]] = []
        problems: list[Problem] = []
        for position, ids in enumerate([*tokenizer.encode_batch(texts), []]):
            for where in bad.get(position, ()):
                problems.append(Problem(len(documents), where))
            if ids:
                documents.append(ids + tail)
        return Encoded(
            tokens=np.array([token for ids in documents for token in ids], np.uint32),
            sizes=np.array([len(ids) for ids in documents], np.int32),
            problems=tuple(problems),
            text_bytes=sum(len(record.raw) for record in chunk.records),
        )

    return encode


_encode_chunk: Callable[[Chunk], Encoded] | None = None


def _start_worker(options: EncodeOptions) -> None:
    global _encode_chunk
    # The workers share the cores already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _encode_chunk = chunk_encoder(options)


def _encode_in_worker(chunk: Chunk) -> Encoded:
    assert _encode_chunk is not None
    return _encode_chunk(chunk)
