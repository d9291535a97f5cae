"""Attention against its formula: grouped heads, one and several blocks, masks and dropout."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from llm_pretrain import ops
from tests.ops import formulas
from tests.ops.formulas import assert_equal_formula, result_and_gradients


def tensors(batch: int, length: int, heads: int, kv_heads: int, size: int) -> list[np.ndarray]:
    generator = np.random.default_rng(length)
    shapes = [(batch, length, n, size) for n in (heads, kv_heads, kv_heads)]
    return [generator.standard_normal(shape) for shape in shapes]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((2, 7, 4, 4, 6), id="multi-head"),
        pytest.param((2, 7, 4, 2, 6), id="grouped"),
        pytest.param((1, 7, 3, 1, 6), id="multi-query"),
        pytest.param((2, 1, 2, 1, 4), id="one token"),
        pytest.param((1, 128, 2, 1, 4), id="one whole block"),
        pytest.param((1, 300, 4, 2, 4), id="several blocks, the last one short"),
    ],
)
def test_formula(shape: tuple[int, int, int, int, int], causal: bool, dtype: str) -> None:
    assert_equal_formula(
        lambda q, k, v: ops.attention(q, k, v, causal=causal),
        lambda q, k, v: formulas.attention(q, k, v, causal),
        tensors(*shape),
        dtype,
    )


def test_long_sequences_are_cut_into_few_blocks() -> None:
    """Beyond 8 x 128 positions the blocks grow."""
    assert_equal_formula(
        ops.attention,
        lambda q, k, v: formulas.attention(q, k, v, True),
        tensors(1, 1200, 1, 1, 2),
        "float32",
    )


def test_no_position_sees_the_future() -> None:
    q, k, v = (paddle.to_tensor(x).astype("float32") for x in tensors(1, 200, 2, 2, 4))
    before = ops.attention(q, k, v).numpy()
    k[:, 150:], v[:, 150:] = 100.0, 100.0
    after = ops.attention(q, k, v).numpy()
    np.testing.assert_array_equal(before[:, :150], after[:, :150])
    assert (before[:, 150:] != after[:, 150:]).any()


def test_scores_beyond_the_range_of_exp() -> None:
    q, k, v = (paddle.to_tensor(100 * x).astype("float32") for x in tensors(1, 5, 1, 1, 4))
    assert np.isfinite(ops.attention(q, k, v).numpy()).all()


def test_dropout_only_while_training() -> None:
    q, k, v = (paddle.to_tensor(x).astype("float32") for x in tensors(1, 9, 2, 1, 4))
    plain = ops.attention(q, k, v).numpy()
    evaluated = ops.attention(q, k, v, dropout=0.5, training=False).numpy()
    np.testing.assert_array_equal(plain, evaluated)
    assert (ops.attention(q, k, v, dropout=0.5).numpy() != plain).any()


def test_dropout_keeps_the_expectation() -> None:
    q, k, v = (paddle.to_tensor(x).astype("float32") for x in tensors(1, 9, 2, 1, 4))
    plain = ops.attention(q, k, v).numpy()
    paddle.seed(1)
    mean = np.mean([ops.attention(q, k, v, dropout=0.2).numpy() for _ in range(2000)], axis=0)
    np.testing.assert_allclose(mean, plain, atol=0.06)


def test_gradient_through_dropout() -> None:
    """Against finite differences, with the same random draws."""
    arrays = tensors(1, 5, 2, 1, 3)

    def dropped(q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor:
        paddle.seed(7)
        return ops.attention(q, k, v, dropout=0.3)

    _, *gradients = result_and_gradients(dropped, arrays, "float32")
    weights = np.random.default_rng(0).standard_normal(arrays[0].shape)

    def value(changed: list[np.ndarray]) -> float:
        result = dropped(*(paddle.to_tensor(x).astype("float32") for x in changed))
        return float((result.numpy().astype(np.float64) * weights).sum())

    step = 1e-2
    for which, gradient in enumerate(gradients):
        direction = np.random.default_rng(which).standard_normal(gradient.shape)
        moved = [
            [x + sign * step * direction if i == which else x for i, x in enumerate(arrays)]
            for sign in (1, -1)
        ]
        numeric = (value(moved[0]) - value(moved[1])) / (2 * step)
        assert (gradient * direction).sum() == pytest.approx(numeric, rel=2e-3, abs=1e-3)


def test_frozen_keys() -> None:
    q, k, v = (paddle.to_tensor(x).astype("float32") for x in tensors(1, 5, 2, 1, 3))
    q.stop_gradient = v.stop_gradient = False
    ops.attention(q, k, v).sum().backward()
    assert k.grad is None
    assert q.grad is not None
    assert v.grad is not None
