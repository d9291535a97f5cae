"""Rotary tables and their scalings, by their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llm_pretrain.config.model_config import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    Rope,
    YarnScaling,
)
from llm_pretrain.models.position import alibi_slopes, rotary_frequencies, rotary_tables
from llm_pretrain.parallel.layers.micro_batch import Sequences, whole_sequences
from tests.models.small import small_config


def frequencies(rope: Rope, length: int = 16) -> np.ndarray:
    return rotary_frequencies(rope, 8, 32, length)[0]


PLAIN = frequencies(Rope(10000.0))


def test_plain() -> None:
    np.testing.assert_allclose(PLAIN, [1, 0.1, 0.01, 0.001])


def test_tables() -> None:
    cos, sin = (table.numpy() for table in rotary_tables(small_config(), whole_sequences(2, 5)))
    assert cos.shape == sin.shape == (5, 4)
    angles = np.outer(np.arange(5), [1, 0.01, 1, 0.01])[:, [0, 1, 2, 3]]
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-6)


def test_tables_of_a_part_of_the_positions() -> None:
    whole = rotary_tables(small_config(), whole_sequences(1, 8))
    part = rotary_tables(small_config(), Sequences(8, (0,), ((2, 4), (6, 8))))
    for expected, found in zip(whole, part, strict=True):
        np.testing.assert_array_equal(found.numpy(), expected.numpy()[[2, 3, 6, 7]])


def test_linear() -> None:
    np.testing.assert_allclose(frequencies(Rope(10000.0, LinearScaling(4.0))), PLAIN / 4)


def test_dynamic_is_plain_up_to_the_positions_of_the_model() -> None:
    rope = Rope(10000.0, DynamicScaling(4.0))
    np.testing.assert_array_equal(frequencies(rope, 32), PLAIN)
    longer = frequencies(rope, 64)
    assert longer[0] == 1
    assert (longer[1:] < PLAIN[1:]).all()
    assert longer[-1] == pytest.approx((10000 * 5 ** (8 / 6)) ** -0.75)


def test_dynamic_with_heads_of_one_pair() -> None:
    assert rotary_frequencies(Rope(10000.0, DynamicScaling(4.0)), 2, 32, 64)[0].tolist() == [1]


def test_llama3_keeps_short_wavelengths_and_stretches_long_ones() -> None:
    scaled = frequencies(Rope(10000.0, Llama3Scaling(8.0, 1.0, 4.0, 256)))
    turns = 256 * PLAIN / (2 * math.pi)
    assert turns[0] > 4
    assert 1 < turns[1] < 4.1
    assert turns[2] < 1
    assert scaled[0] == PLAIN[0]
    assert PLAIN[1] / 8 < scaled[1] <= PLAIN[1]
    np.testing.assert_allclose(scaled[2:], PLAIN[2:] / 8)


def test_yarn_temperature() -> None:
    def amplitude(**settings: float) -> float:
        rope = Rope(10000.0, YarnScaling(4.0, 16, **settings))
        return rotary_frequencies(rope, 8, 64, 16)[1]

    assert amplitude() == pytest.approx(0.1 * math.log(4) + 1)
    assert amplitude(attention_factor=1.5) == 1.5
    assert amplitude(mscale=1.0, mscale_all_dim=1.0) == 1


def test_slopes_of_a_power_of_two() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]


@pytest.mark.parametrize(("heads", "below", "rest"), [(40, 32, 8), (112, 64, 48), (3, 2, 1)])
def test_slopes_of_other_numbers_of_heads(heads: int, below: int, rest: int) -> None:
    """Those of the power of two below, then the odd ones of the power above (Baichuan, BLOOM)."""
    slopes = alibi_slopes(heads)
    assert slopes.dtype == np.float32
    assert len(slopes) == heads
    for i in range(below):
        assert slopes[i] == pytest.approx(2 ** (-8 * (i + 1) / below))
    for i in range(rest):
        assert slopes[below + i] == pytest.approx(2 ** (-8 * (2 * i + 1) / (2 * below)))
