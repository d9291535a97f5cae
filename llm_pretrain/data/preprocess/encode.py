"""Records to token ids, in one process or several, in the order of the input.

The records are cut into blocks whose borders depend on the input alone, and the blocks' results
are taken in order; so the output is the same whatever the number of workers. Only a few blocks
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
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.preprocess.clean import Cleaner, CleaningOptions
from llm_pretrain.data.preprocess.inputs import FORMATS, FormatOptions, Source, decode_record
from llm_pretrain.data.preprocess.streams import PreprocessError
from llm_pretrain.data.preprocess.tokenizers import Tokenizer, load_tokenizer

_BLOCK_RECORDS = 1024
_BLOCK_BYTES = 1 << 20
_BLOCKS_PER_WORKER = 3
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
class Block:
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

    def place(self, number: int) -> str:
        """A record's file and its number there, for error messages."""
        unit = FORMATS[self.format].unit
        return f"{self.name}:{number}" if unit == "line" else f"{self.name}, {unit} {number}"


@dataclass(frozen=True)
class Problem:
    """A record that has no text."""

    document: int
    """Documents of the block that precede it."""
    where: str
    """File, line and what is wrong."""


@dataclass(frozen=True)
class Encoded:
    source: int
    position: int
    last: bool
    tokens: NDArray[np.integer]
    """Ids of all documents of a block, one after another."""
    sizes: NDArray[np.int64]
    """Ids in each document, none of them 0: texts without a token are left out."""
    hashes: NDArray[np.uint64]
    """Hash of each document's text, shape [documents, 2]."""
    problems: tuple[Problem, ...]
    left_out: Counter[str]
    """Texts left out, by the reason."""
    text_bytes: int


def cut_blocks(sources: Sequence[Source], first: int, options: FormatOptions) -> Iterator[Block]:
    """All records of the sources from number `first` on; each source ends with a `last` block."""
    for index in range(first, len(sources)):
        source = sources[index]
        new = partial(Block, index, source.name, source.format)
        block = new()
        size = 0
        try:
            with source.open() as file:
                cut = FORMATS[source.format].cut
                for number, raw in cut(file, source.compression, options):
                    block.numbers.append(number)
                    block.raws.append(raw)
                    size += len(raw or b"")
                    if len(block.raws) == _BLOCK_RECORDS or size >= _BLOCK_BYTES:
                        block.position = file.tell()
                        yield block
                        block = new()
                        size = 0
        except PreprocessError:
            raise
        except (OSError, EOFError, ValueError) as error:
            block.failure = str(error)
        block.position = source.size
        block.last = True
        yield block


def clean_documents(
    sources: Sequence[Source], options: FormatOptions
) -> Iterator[tuple[str, bytes, float]]:
    """Of every document its text, cleaned as `preprocess` does, its hash, and the share read.

    Raises PreprocessError at a record that can't be read.
    """
    cleaner = Cleaner(CleaningOptions())
    begins = list(accumulate((source.size for source in sources), initial=0))
    for block in cut_blocks(sources, 0, options):
        share = min((begins[block.source] + block.position) / max(begins[-1], 1), 1.0)
        kind = FORMATS[block.format]
        for number, raw in zip(block.numbers, block.raws, strict=True):
            try:
                cleaned = cleaner.clean(decode_record(raw, kind, options))
            except ValueError as error:
                raise PreprocessError(f"{block.place(number)}: {error}") from error
            if isinstance(cleaned, tuple) and cleaned[0]:
                yield *cleaned, share
        if block.failure:
            raise PreprocessError(f"the rest of {block.name}: {block.failure}")


def encode_blocks(
    blocks: Iterator[Block], options: EncodeOptions, workers: int
) -> Generator[Encoded, None, None]:
    """The blocks' results, in order. Raises PreprocessError if a worker dies."""
    if workers == 1:
        yield from map(block_encoder(options), blocks)
        return
    # Spawned, not forked: the tokenizer's own threads don't survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (options,))
    pending: deque[Future[Encoded]] = deque()
    try:
        while True:
            room = workers * _BLOCKS_PER_WORKER - len(pending)
            pending.extend(pool.submit(_encode_in_worker, block) for block in islice(blocks, room))
            if not pending:
                return
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise PreprocessError(
            "A worker process died, perhaps for want of memory. Use fewer --workers."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def block_encoder(options: EncodeOptions) -> Callable[[Block], Encoded]:
    """A function that encodes one block in this process."""
    # A worker is one core's; several share the cores among themselves.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = load_tokenizer(options.tokenizer)
    cleaner = Cleaner(options.cleaning)

    def encode(block: Block) -> Encoded:
        texts: list[str] = []
        hashes: list[bytes] = []
        bad: list[tuple[int, str]] = []
        left_out: Counter[str] = Counter()
        for number, raw in zip(block.numbers, block.raws, strict=True):
            kind = FORMATS[block.format]
            try:
                cleaned = cleaner.clean(decode_record(raw, kind, options.format))
            except ValueError as error:
                bad.append((len(texts), f"{block.place(number)}: {error}"))
                continue
            if isinstance(cleaned, str):
                left_out[cleaned] += 1
            else:
                texts.append(cleaned[0])
                hashes.append(cleaned[1])
        if block.failure:
            bad.append((len(texts), f"the rest of {block.name}: {block.failure}"))
        tokens, sizes = _encode_texts(tokenizer, texts, options.append_eos)
        kept = sizes > 0
        left_out[NO_TOKEN] += len(texts) - int(kept.sum())
        return Encoded(
            source=block.source,
            position=block.position,
            last=block.last,
            tokens=tokens.astype(options.dtype),
            sizes=sizes[kept],
            hashes=np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 2)[kept],
            problems=tuple(Problem(int(kept[:at].sum()), where) for at, where in bad),
            left_out=left_out,
            text_bytes=sum(len(raw or b"") for raw in block.raws),
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


_encode_block: Callable[[Block], Encoded] | None = None


def _start_worker(options: EncodeOptions) -> None:
    global _encode_block
    # An interrupt from the keyboard reaches all processes; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _encode_block = block_encoder(options)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode_in_worker(block: Block) -> Encoded:
    assert _encode_block is not None
    return _encode_block(block)
