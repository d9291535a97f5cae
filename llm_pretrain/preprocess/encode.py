"""Records to token ids, in one process or several, in the order of the input.

The records are cut into chunks whose borders depend on the input alone, and the chunks' results
are taken in order; so the output is the same whatever the number of workers. Only a few chunks
are in memory at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.preprocess.clean import Cleaner, CleaningOptions
from llm_pretrain.preprocess.formats import FORMATS, FormatOptions, decode_record
from llm_pretrain.preprocess.inputs import Source
from llm_pretrain.preprocess.streams import PreprocessError
from llm_pretrain.preprocess.tokenizers import Tokenizer, load_tokenizer

_CHUNK_RECORDS = 1024
_CHUNK_BYTES = 1 << 20
_CHUNKS_PER_WORKER = 3
NO_TOKEN = "without a token"


@dataclass(frozen=True)
class EncodeOptions:
    tokenizer: Path
    """Directory of the tokenizer."""
    dtype: np.dtype
    """Type of the tokens."""
    append_eos: bool = False
    format: FormatOptions = field(default_factory=FormatOptions)
    cleaning: CleaningOptions = field(default_factory=CleaningOptions)


@dataclass
class Chunk:
    """Records of one source, one after another."""

    source: int
    """Its position among the sources."""
    name: str
    format: str
    numbers: list[int] = field(default_factory=list)
    raws: list[bytes | None] = field(default_factory=list)
    position: int = 0
    """Bytes of the source's file that have been read."""
    last: bool = False
    failure: str = ""
    """Why what follows in the source can't be read."""


@dataclass(frozen=True)
class Problem:
    """A record that has no text."""

    document: int
    """Documents of the chunk that precede it."""
    where: str
    """File, line and what is wrong."""


@dataclass(frozen=True)
class Encoded:
    source: int
    position: int
    last: bool
    tokens: NDArray[np.integer]
    """Ids of all documents of a chunk, one after another."""
    sizes: NDArray[np.int64]
    """Ids in each document, none of them 0: texts without a token are left out."""
    hashes: NDArray[np.uint64]
    """Hash of each document's text, shape [documents, 2]."""
    problems: tuple[Problem, ...]
    left_out: Counter[str]
    """Texts left out, by the reason."""
    text_bytes: int


def cut_chunks(sources: Sequence[Source], first: int, options: FormatOptions) -> Iterator[Chunk]:
    """All records of the sources from number `first` on; each source ends with a `last` chunk."""
    for index in range(first, len(sources)):
        source = sources[index]
        new = partial(Chunk, index, source.name, source.format)
        chunk = new()
        size = 0
        try:
            with source.open() as file:
                cut = FORMATS[source.format].cut
                for number, raw in cut(file, source.compression, options):
                    chunk.numbers.append(number)
                    chunk.raws.append(raw)
                    size += len(raw or b"")
                    if len(chunk.raws) == _CHUNK_RECORDS or size >= _CHUNK_BYTES:
                        chunk.position = file.tell()
                        yield chunk
                        chunk = new()
                        size = 0
        except PreprocessError:
            raise
        except (OSError, EOFError, ValueError) as error:
            chunk.failure = str(error)
        chunk.position = source.size
        chunk.last = True
        yield chunk


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
    # A worker is one core's; several share the cores among themselves.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = load_tokenizer(options.tokenizer)
    cleaner = Cleaner(options.cleaning)

    def encode(chunk: Chunk) -> Encoded:
        texts: list[str] = []
        hashes: list[bytes] = []
        bad: list[tuple[int, str]] = []
        left_out: Counter[str] = Counter()
        for number, raw in zip(chunk.numbers, chunk.raws, strict=True):
            kind = FORMATS[chunk.format]
            try:
                cleaned = cleaner.clean(decode_record(raw, kind, options.format))
            except ValueError as error:
                place = f":{number}" if kind.unit == "line" else f", {kind.unit} {number}"
                bad.append((len(texts), f"{chunk.name}{place}: {error}"))
                continue
            if isinstance(cleaned, str):
                left_out[cleaned] += 1
            else:
                texts.append(cleaned[0])
                hashes.append(cleaned[1])
        if chunk.failure:
            bad.append((len(texts), f"the rest of {chunk.name}: {chunk.failure}"))
        tokens, sizes = _encode_texts(tokenizer, texts, options.append_eos)
        kept = sizes > 0
        left_out[NO_TOKEN] += len(texts) - int(kept.sum())
        return Encoded(
            source=chunk.source,
            position=chunk.position,
            last=chunk.last,
            tokens=tokens.astype(options.dtype),
            sizes=sizes[kept],
            hashes=np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 2)[kept],
            problems=tuple(Problem(int(kept[:at].sum()), where) for at, where in bad),
            left_out=left_out,
            text_bytes=sum(len(raw or b"") for raw in chunk.raws),
        )

    return encode


def _encode_texts(
    tokenizer: Tokenizer, texts: list[str], append_eos: bool
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Tokens and sizes; a text without a token gets no EOS either."""
    ids = tokenizer.encode_batch(texts)
    if not append_eos:
        return ids.tokens, ids.sizes
    assert tokenizer.eos_id is not None
    kept = ids.sizes > 0
    tokens = np.insert(ids.tokens, np.cumsum(ids.sizes)[kept], tokenizer.eos_id)
    return tokens, ids.sizes + kept


_encode_chunk: Callable[[Chunk], Encoded] | None = None


def _start_worker(options: EncodeOptions) -> None:
    global _encode_chunk
    # An interrupt from the keyboard reaches all processes; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _encode_chunk = chunk_encoder(options)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode_in_worker(chunk: Chunk) -> Encoded:
    assert _encode_chunk is not None
    return _encode_chunk(chunk)
