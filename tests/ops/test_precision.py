"""The compute dtype: operands are rounded to it, weights and residuals are not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import paddle
import pytest

from llm_pretrain import ops
from llm_pretrain.ops.mask import Mask
from llm_pretrain.ops.operator import set_compute_dtype


@pytest.fixture(autouse=True)
def restored_precision() -> Iterator[None]:
    yield
    set_compute_dtype("float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_linear_rounds_its_operands_and_its_result(dtype: str) -> None:
    generator = np.random.default_rng(0)
    x, weight = (
        paddle.to_tensor(generator.standard_normal(shape), dtype="float32")
        for shape in ((3, 8), (8, 4))
    )
    weight.stop_gradient = False
    set_compute_dtype(dtype)
    y = ops.linear(x, weight)
    y.sum().backward()

    rounded = [t.detach().astype(dtype).astype("float32") for t in (x, weight)]
    expected = paddle.matmul(*rounded).astype(dtype)
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y.astype("float32").numpy(), expected.astype("float32").numpy())
    assert weight.grad.dtype == paddle.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_attention_computes_in_the_compute_dtype(dtype: str) -> None:
    q = paddle.randn([1, 3, 2, 4])
    assert ops.attention(q, q, q, Mask()).dtype == paddle.float32
    set_compute_dtype(dtype)
    assert str(ops.attention(q, q, q, Mask()).dtype) == f"paddle.{dtype}"


def test_float32_leaves_lower_operands_alone() -> None:
    set_compute_dtype("float32")
    x = paddle.ones([2, 2], dtype="bfloat16")
    assert ops.linear(x, x).dtype == paddle.bfloat16
