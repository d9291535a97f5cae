from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pretrain.data import BatchLoader, DataError, Sample
from llm_pretrain.data.samples import IGNORED_LABEL


class Numbered:
    """Sample i holds the tokens 10 i, 10 i + 1, 10 i + 2, 10 i + 3."""

    def __init__(self, length: int, *, bad: int | None = None, masked: bool = False) -> None:
        self.length, self.bad, self.masked = length, bad, masked
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Sample:
        self.read.append(number)
        if number == self.bad:
            raise DataError(f"sample {number} is spoilt")
        mask = np.array([0, 1, 0, 1], np.uint8) if self.masked else None
        return Sample(np.arange(10 * number, 10 * number + 4), mask)


def numbers(loader: BatchLoader) -> list[list[int]]:
    return [(batch.tokens[:, 0] // 10).tolist() for batch in loader]


def test_tokens_and_labels() -> None:
    with BatchLoader(Numbered(4), batch_size=2, rank=0, degree=1) as loader:
        batch = next(loader)
    assert batch.tokens.tolist() == [[0, 1, 2], [10, 11, 12]]
    assert batch.labels.tolist() == [[1, 2, 3], [11, 12, 13]]
    assert batch.tokens.dtype == batch.labels.dtype == np.int64
    assert batch.tokens.flags.c_contiguous
    assert batch.wait_s >= 0


def test_masked_tokens_are_no_labels() -> None:
    with BatchLoader(Numbered(4, masked=True), batch_size=1, rank=0, degree=1) as loader:
        batch = next(loader)
    # The mask belongs to the token, which is the label of the position before.
    assert batch.labels.tolist() == [[1, IGNORED_LABEL, 3]]
    assert batch.tokens.tolist() == [[0, 1, 2]]


def test_ranks_take_turns() -> None:
    def of(rank: int) -> list[list[int]]:
        with BatchLoader(Numbered(13), batch_size=2, rank=rank, degree=3) as loader:
            return numbers(loader)

    assert of(0) == [[0, 1], [6, 7]]
    assert of(1) == [[2, 3], [8, 9]]
    assert of(2) == [[4, 5], [10, 11]]


@settings(max_examples=40)
@given(
    st.integers(0, 60),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 20),
    st.integers(0, 3),
    st.integers(0, 12),
)
def test_resume_goes_on_at_the_next_sample(
    length: int, batch: int, degree: int, consumed: int, workers: int, steps: int
) -> None:
    def loader(start: int) -> BatchLoader:
        return BatchLoader(
            Numbered(length),
            batch_size=batch,
            rank=degree - 1,
            degree=degree,
            consumed_samples=start,
            workers=workers,
        )

    with loader(consumed) as whole:
        left = len(whole)
        expected = numbers(whole)
        assert len(expected) == left
    with loader(consumed) as first:
        taken = []
        for _ in range(min(steps, left)):
            taken.append((next(first).tokens[:, 0] // 10).tolist())
        position = first.consumed_samples
    assert position == consumed + len(taken) * batch * degree
    with loader(position) as second:
        assert len(second) == left - len(taken)
        assert taken + numbers(second) == expected


def test_another_batch_size_goes_on_without_a_gap() -> None:
    with BatchLoader(Numbered(20), batch_size=3, rank=0, degree=1) as first:
        next(first)
        position = first.consumed_samples
    with BatchLoader(
        Numbered(20), batch_size=2, rank=0, degree=1, consumed_samples=position
    ) as second:
        assert numbers(second)[0] == [3, 4]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_error_in_a_thread_is_raised_where_the_batch_is_asked_for(workers: int) -> None:
    dataset = Numbered(20, bad=4)
    with BatchLoader(dataset, batch_size=2, rank=0, degree=1, workers=workers) as loader:
        next(loader)
        next(loader)
        with pytest.raises(DataError, match="sample 4 is spoilt"):
            next(loader)


def test_closing_ends_the_threads() -> None:
    before = threading.active_count()
    loader = BatchLoader(Numbered(1000), batch_size=2, rank=0, degree=1, workers=3)
    next(loader)
    assert threading.active_count() > before
    loader.close()
    loader.close()
    assert threading.active_count() == before
    with pytest.raises(StopIteration):
        next(loader)
    assert loader.consumed_samples == 2


def test_batches_are_read_ahead_but_not_without_bound() -> None:
    dataset = Numbered(1000)
    with BatchLoader(dataset, batch_size=1, rank=0, degree=1, workers=2) as loader:
        next(loader)
        deadline = time.monotonic() + 60
        while len(dataset.read) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert sorted(dataset.read) == [0, 1, 2, 3]


def test_dataset_smaller_than_a_global_batch_gives_none() -> None:
    with BatchLoader(Numbered(3), batch_size=2, rank=0, degree=2) as loader:
        assert len(loader) == 0
        assert numbers(loader) == []
