"""Weights packed once for all products of a step."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import Tensor

from llm_pretrain.ops import drop_weights, hold_weights, linear
from llm_pretrain.ops.native import library, operands
from tests.ops.test_native import use_native


@pytest.fixture(autouse=True)
def _operators() -> Iterator[None]:
    use_native()
    yield
    drop_weights()


def trained(*shape: int) -> Tensor:
    weight = paddle.randn(shape)
    weight.stop_gradient = False
    return weight


def step(x: Tensor, weight: Tensor, bias: Tensor) -> list[np.ndarray]:
    """The output of a linear map in bfloat16, and the gradients of a loss."""
    x = x.astype("bfloat16").detach()
    x.stop_gradient = False
    weight.clear_gradient()
    y = linear(x, weight, bias)
    (y.astype("float32") ** 2).sum().backward()
    return [result.astype("float32").numpy() for result in (y, x.grad, weight.grad)]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    plain = library.call

    def call(name: str, *arguments: Any) -> None:
        calls.append(name)
        plain(name, *arguments)

    monkeypatch.setattr(operands, "call", call)
    return calls


@pytest.mark.parametrize("rows", [7, 600])
def test_gives_what_unpacked_weights_give(rows: int) -> None:
    x, weight, bias = paddle.randn([rows, 48]), trained(48, 70), paddle.randn([70])
    expected = step(x, weight, bias)
    hold_weights()
    for ours, theirs in zip(step(x, weight, bias), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-2 * np.abs(theirs).max())


def test_each_weight_is_packed_once_for_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    x, weight, bias = paddle.randn([16, 48]), trained(48, 70), paddle.randn([70])
    hold_weights()
    for _ in range(3):
        step(x, weight, bias)
    # For the output and for the input's gradient; "pack" follows where the processor has it.
    assert calls.count("packed_bytes") == 2
    assert calls.count("pack") in (0, 2)


def test_a_changed_weight_is_packed_anew() -> None:
    x, weight, bias = paddle.randn([16, 48]), trained(48, 70), paddle.zeros([70])
    hold_weights()
    before, *_ = step(x, weight, bias)
    drop_weights()
    with paddle.no_grad():
        weight.scale_(2.0)
    hold_weights()
    after, *_ = step(x, weight, bias)
    np.testing.assert_array_equal(after, 2 * before)


def test_a_weight_is_packed_anew_for_another_number_of_threads() -> None:
    x, weight, bias = paddle.randn([16, 768]), trained(768, 768), paddle.randn([768])
    openmp = ctypes.CDLL(str(Path(paddle.__file__).parent / "libs/libiomp5.so"))
    before = library.threads()
    hold_weights()
    try:
        openmp.omp_set_num_threads(8)
        expected = step(x, weight, bias)
        openmp.omp_set_num_threads(16)
        found = step(x, weight, bias)
    finally:
        openmp.omp_set_num_threads(before)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-2 * np.abs(theirs).max())


@pytest.mark.parametrize("dtypes", [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_gradients_have_the_types_of_their_operands(dtypes: tuple[str, str]) -> None:
    x = paddle.randn([8, 24]).astype(dtypes[0])
    weight = paddle.randn([24, 32]).astype(dtypes[1])
    x.stop_gradient = weight.stop_gradient = False
    linear(x, weight).astype("float32").sum().backward()
    ones = paddle.ones([8, 32])
    for operand, expected in (
        (x, paddle.matmul(ones, weight.astype("float32"), transpose_y=True)),
        (weight, paddle.matmul(x.astype("float32"), ones, transpose_x=True)),
    ):
        assert operand.grad.dtype == operand.dtype
        bound = 1e-2 * float(expected.abs().max())
        assert float((operand.grad.astype("float32") - expected).abs().max()) <= bound
