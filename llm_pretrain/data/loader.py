"""Batches for one data-parallel rank, read ahead in threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.samples import Dataset


@dataclass(frozen=True)
class Batch:
    tokens: NDArray[np.int64]
    """Shape [batch size, sequence length]."""
    labels: NDArray[np.int64]
    """Same shape; IGNORED_LABEL where nothing is to be predicted."""
    structure: Mapping[str, NDArray[np.int64]]
    """What else the model is told of each sample (`Example.structure`)."""
    first_sample: int
    """Number of the first sample in the run; the others follow it."""
    wait_s: float = 0.0
    """Seconds that the consumer waited for this batch."""


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
