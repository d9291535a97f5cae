from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pretrain.data import DataError, Sample, blend
from llm_pretrain.data.blend import BlendedSamples, blend_order, normalized, samples_asked

weights = st.lists(st.floats(0.001, 1000), min_size=1, max_size=12)


class Numbered:
    """A dataset whose sample i is the token i."""

    def __init__(self, name: int, length: int) -> None:
        self.name, self.length = name, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Sample:
        return Sample(np.array([self.name, number]), None)


@settings(max_examples=50)
@given(weights, st.integers(1, 2000))
def test_every_dataset_has_its_share_at_every_moment(shares: list[float], samples: int) -> None:
    datasets, numbers = blend_order(shares, samples)
    for dataset, share in enumerate(normalized(shares)):
        taken = np.cumsum(datasets == dataset)
        assert np.abs(taken - share * np.arange(1, samples + 1)).max() <= len(shares)
        # Its samples are taken in order, none twice.
        assert numbers[datasets == dataset].tolist() == list(range(int(taken[-1])))
        assert taken[-1] <= samples_asked(samples, share)


@settings(max_examples=30)
@given(weights, st.integers(0, 500))
def test_numpy_order_is_the_native_one(shares: list[float], samples: int) -> None:
    native = blend_order(shares, samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blend, "_native", None)
        numpy = blend_order(shares, samples)
    for first, second in zip(native, numpy, strict=True):
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)


def test_more_than_255_datasets() -> None:
    blended = BlendedSamples([Numbered(i, 30) for i in range(600)], [1.0] * 600, 1800)
    seen = [tuple(blended[i].tokens.tolist()) for i in range(len(blended))]
    assert sorted(seen) == [(i, k) for i in range(600) for k in range(3)]


def test_blend_ends_where_it_should() -> None:
    blended = BlendedSamples([Numbered(0, 40), Numbered(1, 40)], [3, 1], 40)
    assert len(blended) == 40
    for number in (-1, 40):
        with pytest.raises(IndexError):
            blended[number]


def test_too_many_datasets_are_an_error() -> None:
    with pytest.raises(DataError, match="40000 datasets"):
        blend_order([1.0] * 40000, 10)
