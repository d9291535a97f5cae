"""Data that one rank reads for all ranks that train on the same samples.

The ranks of a tensor-parallel group, a pipeline and a split sequence get the same samples. With
`distributed_dataloader` the first of them alone opens the files and broadcasts each micro-batch;
the others need no access to the data. What stops the first, stops all.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import NoReturn, Protocol, Self

import numpy as np
import paddle
from numpy.typing import NDArray

from llm_pretrain.data.build import Datasets
from llm_pretrain.data.samples import Batch, BatchLoader, Dataset
from llm_pretrain.data.token_data import DataError
from llm_pretrain.parallel.comm import collectives
from llm_pretrain.parallel.comm.collectives import Group
from llm_pretrain.parallel.comm.topology import Topology

_STRUCTURE = "structure."
_NAMED = "eval_data."
_ARRAYS, _END, _ERROR = range(3)
"""What a message holds."""


class Batches(Iterator[Batch], AbstractContextManager, Protocol):
    """Micro-batches, to be closed by leaving a `with` block."""


class RemoteDataset:
    """A dataset that another rank reads: only its length is known here."""

    def __init__(self, length: int, reader: int) -> None:
        self._length = length
        self._reader = reader

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> NoReturn:
        raise TypeError(f"sample {number} is read by rank {self._reader}")


def build_once(build: Callable[[], Datasets], group: Group, *, is_builder: bool) -> Datasets:
    """What `build` gives on the group's first rank; RemoteDatasets on the others.

    Every rank of the job calls it. Those that build the index cache have the first turn, so that
    the others find all of it there.

    Raises what `build` raises; DataError on all other ranks then.
    """
    reads = collectives.is_alone(group) or group.rank == 0
    datasets = None
    for has_turn in (is_builder, not is_builder):
        failure: Exception | None = None
        if reads and has_turn:
            try:
                datasets = build()
            except Exception as error:
                failure = error
        _meet(failure)
    if datasets is None:
        return _remote_datasets(group)
    if not collectives.is_alone(group):
        _send(group, {name: np.array(len(part)) for name, part in _used(datasets).items()})
    return datasets


def _meet(failure: Exception | None) -> None:
    """Wait for every rank of the job, and raise where any of them has failed."""
    # Gathering over Gloo would not wait for work that may take minutes; this does.
    collectives.barrier()
    problem = "" if failure is None else str(failure) or type(failure).__name__
    problems = collectives.gather_texts(problem)
    if failure is not None:
        raise failure
    for rank, problem in enumerate(problems):
        if problem:
            raise DataError(_failed(rank, problem))


def _failed(rank: int, problem: str) -> str:
    return f"Rank {rank}, which reads the data, failed: {problem}"


def _used(datasets: Datasets) -> dict[str, Dataset]:
    parts = {"train": datasets.train, "valid": datasets.valid, "test": datasets.test}
    parts |= {f"{_NAMED}{name}": part for name, part in datasets.named_valid.items()}
    return {name: part for name, part in parts.items() if part is not None}


def _remote_datasets(group: Group) -> Datasets:
    lengths = _receive(group) or {}
    parts = {name: RemoteDataset(int(length), group.ranks[0]) for name, length in lengths.items()}
    named = {
        name.removeprefix(_NAMED): part for name, part in parts.items() if name.startswith(_NAMED)
    }
    splits = parts.get("train"), parts.get("valid"), parts.get("test")
    return Datasets(*splits, named_valid=named)


def open_batches(
    dataset: Dataset,
    topology: Topology,
    *,
    batch_size: int,
    consumed_samples: int = 0,
    workers: int = 0,
) -> Batches:
    """This rank's micro-batches (see BatchLoader), read here or by the rank that reads for it."""
    loader = BatchLoader(
        dataset,
        batch_size=batch_size,
        rank=topology.batch_rank,
        degree=topology.batch_degree,
        consumed_samples=consumed_samples,
        workers=workers,
    )
    group = topology.sample_group
    return loader if collectives.is_alone(group) else SharedBatches(loader, group)


class SharedBatches:
    """The batches of the loader of the group's first rank, on every rank of the group.

    All ranks must ask for the same number of batches. Close it, or use it in `with`.
    """

    def __init__(self, loader: BatchLoader, group: Group) -> None:
        self._loader = loader
        self._group = group

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        begin = time.perf_counter()
        batch = self._read() if self._group.rank == 0 else self._received()
        if batch is None:
            raise StopIteration
        return replace(batch, wait_s=time.perf_counter() - begin)

    def close(self) -> None:
        """Stop reading ahead."""
        self._loader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> Batch | None:
        with _failures_sent(self._group):
            batch = next(self._loader, None)
        _send(self._group, None if batch is None else _arrays(batch))
        return batch

    def _received(self) -> Batch | None:
        arrays = _receive(self._group)
        return None if arrays is None else _batch(arrays)


def _arrays(batch: Batch) -> dict[str, NDArray]:
    return {
        "tokens": batch.tokens,
        "labels": batch.labels,
        "first_sample": np.array(batch.first_sample),
        **{_STRUCTURE + name: array for name, array in batch.structure.items()},
    }


def _batch(arrays: dict[str, NDArray]) -> Batch:
    return Batch(
        arrays["tokens"],
        arrays["labels"],
        {
            name.removeprefix(_STRUCTURE): array
            for name, array in arrays.items()
            if name.startswith(_STRUCTURE)
        },
        int(arrays["first_sample"]),
    )


@contextmanager
def _failures_sent(group: Group) -> Iterator[None]:
    """An error within the block goes to the other ranks of the group, too."""
    try:
        yield
    except Exception as error:
        _broadcast(group, _ERROR, (str(error) or type(error).__name__).encode())
        raise


def _send(group: Group, arrays: dict[str, NDArray] | None) -> None:
    """Send arrays to the other ranks, or, with None, that there are no more."""
    if arrays is None:
        _broadcast(group, _END, b"")
        return
    file = io.BytesIO()
    np.savez(file, **arrays)
    _broadcast(group, _ARRAYS, file.getvalue())


def _receive(group: Group) -> dict[str, NDArray] | None:
    """What the first rank sends; DataError where it sends an error."""
    kind, content = _broadcast(group)
    if kind == _END:
        return None
    if kind == _ERROR:
        raise DataError(_failed(group.ranks[0], content.decode()))
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return dict(archive)


def _broadcast(group: Group, kind: int = _END, content: bytes = b"") -> tuple[int, bytes]:
    """The kind and content that the group's first rank passes, on every rank."""
    source = group.ranks[0]
    head = paddle.to_tensor([kind, len(content)], dtype="int64")
    kind, size = collectives.broadcast(head, source, group).tolist()
    if size == 0:
        return kind, b""
    values = np.frombuffer(content, np.uint8) if content else np.zeros(size, np.uint8)
    return kind, collectives.broadcast(paddle.to_tensor(values), source, group).numpy().tobytes()
