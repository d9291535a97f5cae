"""The sum of bits finds every flip, every two flips, and every exchange."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_pretrain.machine.bit_sum import CONSTANT, sum_on_host
from llm_pretrain.ops import bit_sum
from llm_pretrain.ops.bit_sum import bit_sums, bits_of, sums_on_device

SIZES = (1, 3, 32768, 32769, 100_003)
LARGEST = 1 << 29
"""Elements of a tensor, as the module's docstring has them."""


def by_definition(bits: np.ndarray) -> int:
    total = sum(int(x) * (2 * CONSTANT * i + 1) for i, x in enumerate(bits.tolist()))
    return (total + (1 << 63)) % (1 << 64) - (1 << 63)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_host_and_device_give_the_sum_by_its_definition(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = [paddle.randn([size]).astype(dtype) for size in SIZES]
    expected = [by_definition(bits_of(tensor)) for tensor in tensors]
    assert bit_sums(tensors).tolist() == expected
    assert sums_on_device(tensors).tolist() == expected
    monkeypatch.setattr(bit_sum, "_IN_MEMORY", 1000)
    assert sums_on_device(tensors).tolist() == expected


def test_a_part_of_a_tensor_has_its_own_sum() -> None:
    whole = paddle.randn([100])
    part = whole._slice(10, 30)
    assert bit_sums([part]).tolist() == bit_sums([whole[10:30]]).tolist()


numbers = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=50)


@given(numbers, st.data())
def test_one_or_two_flips_are_found(values: list[int], data: st.DataObject) -> None:
    before = np.array(values, np.int32)
    after = before.copy()
    places = st.tuples(st.integers(0, len(values) - 1), st.integers(0, 31))
    for element, bit in data.draw(st.sets(places, min_size=1, max_size=2)):
        after[element] ^= np.int32(np.uint32(1 << bit).astype(np.int32))
    assert sum_on_host(after) != sum_on_host(before)


@given(numbers, st.data())
def test_an_exchange_is_found(values: list[int], data: st.DataObject) -> None:
    before = np.array(values, np.int32)
    after = np.array(data.draw(st.permutations(values)), np.int32)
    if sum(before != after) == 2:
        assert sum_on_host(after) != sum_on_host(before)


def test_two_flips_in_the_same_direction_never_cancel() -> None:
    """Nor do they far apart: 2^(bit + 1) (C (i + j) + 1) is no multiple of 2^64."""
    assert CONSTANT % 2 == 1
    for bit in range(32):
        modulus = 1 << 63 - bit
        nearest = -pow(CONSTANT, -1, modulus) % modulus
        assert nearest > 2 * LARGEST, bit


@pytest.mark.parametrize("bit", range(32))
def test_a_flip_of_any_bit_is_found_far_into_a_tensor(bit: int) -> None:
    bits = np.random.default_rng(bit).integers(-(2**31), 2**31, 70_000).astype(np.int32)
    before = sum_on_host(bits)
    for element in (0, 32_767, 32_768, 69_999):
        bits[element] ^= np.array(1 << bit, np.uint32).astype(np.int32)
        assert sum_on_host(bits) != before
        bits[element] ^= np.array(1 << bit, np.uint32).astype(np.int32)
    assert sum_on_host(bits) == before
