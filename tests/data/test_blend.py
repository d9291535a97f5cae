from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pretrain.data import DataError, Sample, blend
from llm_pretrain.data.blend import (
    BlendedSamples,
    blend_order,
    kept_order,
    normalized,
    reaching_all,
    samples_asked,
)
from llm_pretrain.data.cache import IndexCache

weights = st.lists(st.floats(0.001, 1000), min_size=1, max_size=12)


class Numbered:
    """A dataset whose sample i is the token i."""

    def __init__(self, name: int, length: int) -> None:
        self.name, self.length = name, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Sample:
        return Sample(np.array([self.name, number]), None)


def check_quotas(shares: list[float], samples: int) -> None:
    datasets, numbers = blend_order(shares, samples)
    assert len(datasets) == samples
    for dataset, share in enumerate(normalized(shares)):
        taken = np.cumsum(datasets == dataset)
        ahead = taken - share * np.arange(1, samples + 1)
        assert ahead.max(initial=0) <= 1 + 1e-6
        assert ahead.min(initial=0) >= -1 - math.log(len(shares)) - 1e-6
        # Its samples are taken in order, none twice.
        count = int(taken[-1]) if samples else 0
        assert numbers[datasets == dataset].tolist() == list(range(count))
        assert count <= samples_asked(samples, share)


@settings(max_examples=100)
@given(weights, st.integers(0, 1000))
def test_every_dataset_has_its_share_at_every_moment(shares: list[float], samples: int) -> None:
    check_quotas(shares, samples)


@pytest.mark.parametrize(
    ("shares", "samples"),
    [
        # Few samples of many datasets, where PaddleNLP (#8776, #8825) and Megatron (#705) asked a
        # dataset for more samples than it had.
        ([1.0] * 300, 10),
        ([1.0 + number / 7 for number in range(300)], 1),
        ([0.9] + [0.1 / 299] * 299, 50),
        ([1 / 3] * 3, 1000),
        ([2.0**-number for number in range(60)], 300),
        ([1e-9, 1.0], 1000),
        ([1e-300, 1.0, 1e300], 100),
        ([5e-324, 1.0], 10),
        ([7.0], 33),
    ],
)
def test_hard_quotas(shares: list[float], samples: int) -> None:
    check_quotas(shares, samples)


@settings(max_examples=30)
@given(st.integers(1, 400), st.integers(1, 2000), st.floats(1e-3, 1e3))
def test_equal_datasets_take_turns_as_the_native_builder_has_it(
    count: int, samples: int, weight: float
) -> None:
    helpers = pytest.importorskip("fast_dataindex.helpers")
    expected = np.zeros(samples, np.int16), np.zeros(samples, np.int64)
    helpers.build_blending_indices(*expected, np.full(count, 1 / count), count, samples, False)
    for ours, theirs in zip(blend_order([weight] * count, samples), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=60)
@given(
    # Some of them alike, so that several datasets are behind by the same.
    st.lists(st.floats(0.001, 1000) | st.integers(1, 3), min_size=1, max_size=40),
    st.integers(0, 500),
    st.sampled_from([1, 2, 7, 512]),
)
def test_numpy_order_is_the_native_one(shares: list[float], samples: int, block: int) -> None:
    native = blend_order(shares, samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blend, "_native", None)
        patch.setattr(blend, "_BLOCK", block)
        numpy = blend_order(shares, samples)
    for first, second in zip(native, numpy, strict=True):
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("spread", "share"), [(0.3, 1.01), (3, 0.05)])
def test_order_of_thousands_is_the_native_one_and_no_more_are_looked_at(
    spread: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers = pytest.importorskip("fast_dataindex.helpers")
    count, samples = 20000, 6000
    shares = np.random.default_rng(0).lognormal(0, spread, count)
    looked_at = 0
    multiply = np.multiply

    def counting(their_shares: np.ndarray, *arguments: Any, **options: Any) -> Any:
        nonlocal looked_at
        looked_at += len(their_shares)
        return multiply(their_shares, *arguments, **options)

    monkeypatch.setattr(blend.np, "multiply", counting)
    ours = blend_order(shares.tolist(), samples)
    monkeypatch.undo()
    expected = np.zeros(samples, np.int16), np.zeros(samples, np.int64)
    helpers.build_blending_indices(*expected, shares / shares.sum(), count, samples, False)
    # The native one looks at all for every sample: at 100 million samples for 40 minutes.
    assert 0 < looked_at < share * count * samples
    for first, second in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(first, second)


def test_more_than_255_datasets() -> None:
    blended = BlendedSamples([Numbered(i, 30) for i in range(600)], blend_order([1.0] * 600, 1800))
    seen = [tuple(blended[i].tokens.tolist()) for i in range(len(blended))]
    assert sorted(seen) == [(i, k) for i in range(600) for k in range(3)]


def test_long_order_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = IndexCache([tmp_path / "cache"], builder=True, timeout_s=0)
    kept_order([1, 2], 40, cache)
    monkeypatch.setattr(blend, "_LONG", 80)
    kept_order([2, 2], 40, cache)
    assert not (tmp_path / "cache").exists()
    expected = kept_order([1, 2], 40, cache)
    np.testing.assert_array_equal(expected, blend_order([1, 2], 40))
    others = kept_order([1, 2], 41, cache), kept_order([2, 1], 40, cache)
    assert len(others[0][0]) == 41
    assert others[1][0].tolist() != expected[0].tolist()
    monkeypatch.setattr(blend, "blend_order", None)
    reader = IndexCache([tmp_path / "cache"], builder=False, timeout_s=0)
    np.testing.assert_array_equal(kept_order([1, 2], 40, reader), expected)


def test_blend_ends_where_it_should() -> None:
    blended = BlendedSamples([Numbered(0, 40), Numbered(1, 40)], blend_order([3, 1], 40))
    assert len(blended) == 40
    for number in (-1, 40):
        with pytest.raises(IndexError):
            blended[number]


def test_damaged_order_is_an_error() -> None:
    order = np.array([0, 2], np.int16), np.array([0, 0])
    with pytest.raises(DataError, match="order of the blend in the index cache is damaged"):
        BlendedSamples([Numbered(0, 40), Numbered(1, 40)], order)


def test_too_many_datasets_are_an_error() -> None:
    with pytest.raises(DataError, match="40000 datasets"):
        blend_order([1.0] * 40000, 10)


def test_too_large_weights_are_an_error() -> None:
    with pytest.raises(DataError, match="too large"):
        normalized([1e308, 1e308])


def test_every_dataset_has_a_sample_where_there_are_enough() -> None:
    weights = [0.97, 0.01, 0.01, 0.01]
    order = blend_order(weights, 10)
    assert len(set(order[0])) < 4
    datasets, numbers = reaching_all(order, weights)
    assert datasets.tolist() == [0] * 7 + [1, 2, 3]
    assert numbers.tolist() == [*range(7), 0, 0, 0]


def test_of_more_datasets_than_samples_those_at_equal_distances_have_one() -> None:
    datasets, numbers = reaching_all(blend_order([1.0] * 100, 4), [1.0] * 100)
    assert datasets.tolist() == [12, 37, 62, 87]
    assert not numbers.any()


def test_an_order_that_reaches_all_datasets_is_left_as_it_is() -> None:
    order = blend_order([0.5, 0.3, 0.2], 20)
    assert reaching_all(order, [0.5, 0.3, 0.2]) is order
