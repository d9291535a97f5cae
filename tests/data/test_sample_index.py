from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_pretrain.data import DataError, sample_index
from llm_pretrain.data.sample_index import (
    build_sample_index,
    numpy_sample_starts,
    plan_epochs,
    sample_starts,
)


def starts_by_hand(sizes: list[int], order: list[int], length: int, samples: int) -> list[list]:
    """Walk over the tokens one by one."""
    places = [
        [row, token] for row, document in enumerate(order) for token in range(sizes[document])
    ]
    return [[0, 0]] + [places[number * length] for number in range(1, samples + 1)]


cases = st.tuples(
    st.lists(st.integers(0, 30), min_size=1, max_size=20).filter(lambda sizes: sum(sizes) > 1),
    st.integers(1, 40),
    st.integers(0, 60),
    st.integers(0, 2**32 - 1),
).filter(lambda case: sum(case[0]) > case[1])


@given(cases)
def test_native_and_numpy_starts_are_a_walk_over_the_tokens(case: tuple) -> None:
    sizes, length, samples, seed = case
    plan = plan_epochs(sum(sizes), length, samples)
    order = np.random.default_rng(seed).permutation(np.tile(np.arange(len(sizes)), plan.epochs))
    order = order.astype(np.int32)
    expected = starts_by_hand(sizes, order.tolist(), length, plan.samples)
    lengths = np.array(sizes, np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_index, "_BLOCK", 3)  # so that samples reach over several
        numpy = numpy_sample_starts(lengths, order, length, plan.samples)
    assert numpy.tolist() == expected
    chosen = sample_starts(lengths, order, sequence_length=length, plan=plan)
    assert chosen.tolist() == expected
    assert chosen.dtype == numpy.dtype == np.int32


@given(cases)
def test_every_epoch_serves_every_document_once(case: tuple) -> None:
    sizes, length, samples, seed = case
    index = build_sample_index(
        np.array(sizes, np.int32),
        range(len(sizes)),
        sequence_length=length,
        samples=samples,
        seed=seed,
    )
    plan = plan_epochs(sum(sizes), length, samples)
    assert len(index.shuffle) == len(index.samples) - 1 >= samples
    assert sorted(index.shuffle.tolist()) == list(range(plan.samples))
    counts = np.bincount(index.documents, minlength=len(sizes))
    assert (counts == plan.epochs).all()
    if plan.separate_last_epoch:
        last = index.documents[-len(sizes) :]
        assert sorted(last.tolist()) == list(range(len(sizes)))
        assert max(index.shuffle[: plan.samples_before_last]) < plan.samples_before_last


@given(st.integers(2, 10**12), st.integers(1, 10**5), st.integers(0, 10**9))
def test_epochs_are_as_few_as_give_the_samples(tokens: int, length: int, samples: int) -> None:
    if tokens <= length:
        return
    plan = plan_epochs(tokens, length, samples)
    assert (plan.epochs * tokens - 1) // length == plan.samples >= samples
    if plan.epochs > 1:
        assert ((plan.epochs - 1) * tokens - 1) // length < samples


def test_last_epoch_is_separate_below_four_fifths() -> None:
    # 101 tokens hold 10 samples of 10; the second epoch ends the 20th.
    assert plan_epochs(101, 10, 10).epochs == 1
    assert plan_epochs(101, 10, 17).separate_last_epoch
    assert not plan_epochs(101, 10, 18).separate_last_epoch


def test_only_documents_of_the_split_are_used() -> None:
    sizes = np.array([9, 8, 7, 6, 5], np.int32)
    index = build_sample_index(sizes, range(1, 3), sequence_length=4, samples=8, seed=3)
    assert set(index.documents.tolist()) == {1, 2}


def test_seed_decides_the_order() -> None:
    sizes = np.full(50, 7, np.int32)

    def order(seed: int) -> list[int]:
        index = build_sample_index(sizes, range(50), sequence_length=4, samples=80, seed=seed)
        return index.documents.tolist() + index.shuffle.tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range_is_an_error(seed: int) -> None:
    with pytest.raises(DataError, match="seed is"):
        build_sample_index(
            np.array([9], np.int32), range(1), sequence_length=4, samples=1, seed=seed
        )


def test_without_fast_dataindex_the_index_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = np.random.default_rng(0).integers(0, 50, 300).astype(np.int32)

    def build() -> sample_index.SampleIndex:
        return build_sample_index(sizes, range(300), sequence_length=32, samples=999, seed=5)

    native = build()
    monkeypatch.setattr(sample_index, "_native", None)
    numpy = build()
    for name in ("documents", "samples", "shuffle"):
        first, second = getattr(native, name), getattr(numpy, name)
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)


SILENT = """
import sys, numpy as np
from llm_pretrain.data.sample_index import build_sample_index
sizes = np.full(9, 9, np.int32)
print("before")
build_sample_index(sizes, range(9), sequence_length=4, samples=5, seed=1)
print("after")
"""


def test_nothing_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SILENT], capture_output=True, text=True, timeout=600, check=True
    )
    assert done.stdout == "before\nafter\n"


def test_closed_standard_output_is_no_error() -> None:
    program = "import os; os.close(1)\n" + SILENT.replace("print", "len")
    subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, timeout=600, check=True)
