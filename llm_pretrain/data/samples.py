"""Samples of one data prefix, what keeps the documents of a sample apart, and batches of samples,
read ahead in threads.

Documents are kept apart by what attention sees, by their positions, or both. The documents of a
sample are those that its tokens show: one begins after every end token.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.sample_index import SampleIndex
from llm_pretrain.data.token_data import DataError, TokenData

IGNORED_LABEL = -100

Tokens = NDArray[np.int64]


class Example(Protocol):
    """What a model is given, and what it should predict."""

    @property
    def inputs(self) -> NDArray[np.int64]:
        """Shape [sequence length]."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Same shape; IGNORED_LABEL where nothing is to be predicted."""

    @property
    def structure(self) -> Mapping[str, NDArray[np.int64]]:
        """What else the model is told, by the names of `Sequences`' fields; the same of all."""


@dataclass(frozen=True)
class Sample:
    """A stretch of text; as an example, every token predicts the next one."""

    tokens: NDArray[np.int64]
    """Shape [sequence length + 1]."""
    mask: NDArray[np.uint8] | None
    """Same shape; 0 where the token is not to be learned. None: all are."""
    structure: ClassVar[Mapping[str, NDArray[np.int64]]] = MappingProxyType({})

    @property
    def inputs(self) -> NDArray[np.int64]:
        return self.tokens[:-1]

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.targets[1:]

    @property
    def targets(self) -> NDArray[np.int64]:
        """The tokens as labels: IGNORED_LABEL where one is not to be learned."""
        return self.tokens if self.mask is None else np.where(self.mask, self.tokens, IGNORED_LABEL)


@dataclass(frozen=True)
class StructuredSample:
    """An `Example` of which the model is told more than its tokens."""

    inputs: Tokens
    labels: Tokens
    structure: Mapping[str, Tokens]


class Texts(Protocol):
    """Texts by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Sample: ...


class Dataset(Protocol):
    """Examples by number, in the order in which training uses them."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Example: ...


class IndexedSamples:
    """The samples that a sample index cuts from one data prefix. Safe to read from threads."""

    def __init__(self, data: TokenData, index: SampleIndex, sequence_length: int) -> None:
        self.data = data
        self.index = index
        self.sequence_length = sequence_length

    def __len__(self) -> int:
        return len(self.index.samples) - 1

    def __getitem__(self, number: int) -> Sample:
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        place = int(self.index.shuffle[number])
        self.data.check_length()
        try:
            (first, offset), (last, final) = self.index.samples[place : place + 2].tolist()
            documents = self.index.documents[first : last + 1].tolist()
            parts = []
            for position, document in enumerate(documents, first):
                begin = offset if position == first else 0
                length = final + 1 - begin if position == last else None
                parts.append(self.data.read(document, begin, length))
            tokens = np.concatenate([part[0] for part in parts]).astype(np.int64)
        except (ValueError, IndexError) as error:
            raise self._damaged(number) from error
        if len(tokens) != self.sequence_length + 1:
            raise self._damaged(number)
        masks = [mask for _, mask in parts if mask is not None]
        return Sample(tokens, np.concatenate(masks) if masks else None)

    def _damaged(self, number: int) -> DataError:
        return DataError(
            f"Sample {number} can't be read: the index cache of {self.data.prefix} is damaged. "
            "Delete the folder index-cache (and what is in data_cache) and start again."
        )


@dataclass(frozen=True)
class Isolation:
    """How the documents of a sample are kept apart."""

    end_tokens: tuple[int, ...]
    """Ids of which each ends a document and belongs to it."""
    apart: bool
    """Whether a position sees its own document alone."""
    counted_anew: bool
    """Whether the first position of every document is 0."""

    def __post_init__(self) -> None:
        assert self.end_tokens
        assert self.apart or self.counted_anew

    def documents_of(self, text: Sample) -> list[Sample]:
        """The documents of a text one by one, each with its part of the mask."""
        begins = np.unique(document_starts(text.tokens, self.end_tokens))[1:]
        tokens = np.split(text.tokens, begins)
        if text.mask is None:
            return [Sample(document, None) for document in tokens]
        masks = np.split(text.mask, begins)
        return [Sample(document, mask) for document, mask in zip(tokens, masks, strict=True)]


class SamplesOfDocuments:
    """Every text with what keeps its documents apart: their starts, positions in them, or both."""

    def __init__(self, texts: Texts, isolation: Isolation) -> None:
        self.texts = texts
        self.isolation = isolation

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: int) -> StructuredSample:
        text = self.texts[number]
        starts = document_starts(text.inputs, self.isolation.end_tokens)
        structure = {}
        if self.isolation.apart:
            structure["document_starts"] = starts
        if self.isolation.counted_anew:
            structure["position_ids"] = np.arange(len(starts)) - starts
        return StructuredSample(text.inputs, text.labels, structure)


def document_starts(tokens: Tokens, end_tokens: Collection[int]) -> Tokens:
    """Where the document of each token begins, the same shape [length]."""
    starts = np.zeros(len(tokens), np.int64)
    begins = np.flatnonzero(np.isin(tokens[:-1], tuple(end_tokens))) + 1
    starts[begins] = begins
    return np.maximum.accumulate(starts)


@dataclass(frozen=True)
class Batch:
    tokens: NDArray[np.int64]
    """Shape [batch size, sequence length]."""
    labels: NDArray[np.int64]
    """Same shape; IGNORED_LABEL where nothing is to be predicted."""
    structure: Mapping[str, NDArray[np.int64]]
    """What else the model is told of each sample (`Example.structure`)."""
    first_sample: int
    """Number of the first sample in the run; the others follow it. Where they are cut: of the
    first sequence, if all samples were cut so."""
    wait_s: float = 0.0
    """Seconds that the consumer waited for this batch."""

    def cut(self, length: int) -> Batch:
        """The samples cut into sequences of `length`, a divisor of theirs.

        A sequence knows nothing of the one before: its positions count anew, and a document that
        goes on in it begins there. The last token of each predicts the first of the next, as that
        of a sample does.
        """
        parts = self.tokens.shape[1] // length
        if parts == 1:
            return self
        places = np.arange(length)
        before = np.tile(length * np.arange(parts), len(self.tokens))[:, None]

        def cut(rows: NDArray[np.int64]) -> NDArray[np.int64]:
            return rows.reshape(-1, length)

        changes = {
            "document_starts": lambda starts: np.maximum(cut(starts) - before, 0),
            "position_ids": lambda positions: np.minimum(cut(positions), places),
        }
        return replace(
            self,
            tokens=cut(self.tokens),
            labels=cut(self.labels),
            structure={name: changes[name](rows) for name, rows in self.structure.items()},
            first_sample=self.first_sample * parts,
        )


class BatchLoader:
    """Iterates over the micro-batches of one rank; whole global batches only.

    After `consumed_samples` samples, micro-step k takes `degree` × `batch_size` samples, of which
    rank r has the r-th `batch_size`: PaddleNLP's order. `consumed_samples` may be any number, so
    a run may go on with another batch size or another degree at the very next sample.

    `workers` threads read `2 × workers` batches ahead; with 0 the consumer reads by itself. An
    error in a thread is raised where the batch is asked for. Close it, or use it in `with`.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        rank: int,
        degree: int,
        consumed_samples: int = 0,
        workers: int = 1,
    ) -> None:
        assert batch_size >= 1
        assert 0 <= rank < degree
        assert consumed_samples >= 0
        assert workers >= 0
        self._dataset = dataset
        self._batch_size = batch_size
        self._rank = rank
        self._degree = degree
        self._next = consumed_samples
        self._ahead: deque[Future[Batch]] = deque()
        self._pool = ThreadPoolExecutor(workers, "data") if workers else None
        self._depth = 2 * workers
        self._closed = False

    @property
    def consumed_samples(self) -> int:
        """Samples given out so far, by all ranks together, those before the start included."""
        return self._next - len(self._ahead) * self._global_batch

    @property
    def _global_batch(self) -> int:
        return self._batch_size * self._degree

    def __len__(self) -> int:
        """Micro-batches that are left."""
        return max(0, len(self._dataset) - self.consumed_samples) // self._global_batch

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        begin = time.perf_counter()
        if self._pool is None:
            first = self._take()
            if first is None:
                raise StopIteration
            batch = self._read(first)
        else:
            while len(self._ahead) < self._depth:
                first = self._take()
                if first is None:
                    break
                self._ahead.append(self._pool.submit(self._read, first))
            if not self._ahead:
                raise StopIteration
            batch = self._ahead[0].result()
            self._ahead.popleft()
        return replace(batch, wait_s=time.perf_counter() - begin)

    def close(self) -> None:
        """Stop reading ahead; returns when no thread is at work. Then there are no more batches."""
        self._next = self.consumed_samples
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None
        self._closed = True

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self) -> int | None:
        """Number of the next global batch's first sample."""
        if self._closed or self._next + self._global_batch > len(self._dataset):
            return None
        first = self._next
        self._next += self._global_batch
        return first

    def _read(self, first: int) -> Batch:
        begin = first + self._rank * self._batch_size
        samples = [self._dataset[number] for number in range(begin, begin + self._batch_size)]
        return Batch(
            np.stack([sample.inputs for sample in samples]),
            np.stack([sample.labels for sample in samples]),
            {
                name: np.stack([sample.structure[name] for sample in samples])
                for name in samples[0].structure
            },
            begin,
        )
