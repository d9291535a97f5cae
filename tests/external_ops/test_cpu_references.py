"""The references' gradients against differences of their results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy import ndarray

from tests.external_ops import cpu_references as references
from tests.external_ops.cpu_references import Results

random = np.random.default_rng(0)


def normal(*shape: int) -> ndarray:
    return random.standard_normal(shape)


def norm(x: ndarray, weight: ndarray, bias: ndarray | None, dy: ndarray) -> Results:
    return references.norm(x, None, weight, bias, 1e-3, dy, None)


def head_loss(x: ndarray, weight: ndarray, factors: ndarray) -> Results:
    results = references.linear_cross_entropy(x, weight, np.array([3, -1, 0, 7]), factors)
    return results | {"y": results["log_sums"] - results["target"]}


def attention(q: ndarray, k: ndarray, v: ndarray, dy: ndarray) -> Results:
    starts = np.array([[0, 0, 0, 3, 3, 3], [0, 0, 2, 2, 2, 5]])
    prefix_ends = np.array([[2, 2, 2, 5, 5, 5], [1, 1, 4, 4, 4, 4]])
    return references.attention(q, k, v, np.array([0.1, 0.4]), prefix_ends, starts, dy)


def gated(kind: str) -> Callable[..., Results]:
    return lambda x, up, dy: references.activation(kind, x, up, dy)


QKV = {"q": normal(2, 6, 2, 3), "k": normal(2, 6, 1, 3), "v": normal(2, 6, 1, 3)}
CASES: dict[str, tuple[Callable[..., Results], dict[str, ndarray], ndarray]] = {
    "rms_norm": (
        lambda x, weight, dy: norm(x, weight, None, dy),
        {"x": normal(4, 5), "weight": normal(5)},
        normal(4, 5),
    ),
    "layer_norm": (norm, {"x": normal(4, 5), "weight": normal(5), "bias": normal(5)}, normal(4, 5)),
    "attention": (attention, QKV, normal(2, 6, 2, 3)),
    "linear_cross_entropy": (head_loss, {"x": normal(4, 3), "weight": normal(3, 9)}, normal(4)),
    **{
        kind: (gated(kind), {"x": normal(40), "up": normal(40)}, normal(40))
        for kind in ("silu", "gelu", "gelu_tanh", "relu")
    },
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_slopes(name: str) -> None:
    function, operands, dy = CASES[name]
    results = function(*operands.values(), dy)
    step = 1e-6
    for operand, values in operands.items():
        direction = random.standard_normal(values.shape)
        moved = [
            (function(*(operands | {operand: values + sign * step * direction}).values(), dy)["y"])
            for sign in (1, -1)
        ]
        slope = ((moved[0] - moved[1]) * dy).sum() / (2 * step)
        gradient = (results[f"d{operand}"] * direction).sum()
        assert gradient == pytest.approx(slope, rel=1e-6, abs=1e-7)


def test_rotating_back_is_the_gradient_of_rotating() -> None:
    angles = np.repeat(random.random((2, 5, 2, 1, 3)), 2, axis=3).reshape(2, 5, 12)
    tables = np.cos(angles), np.sin(angles)
    x, dy = normal(2, 5, 3, 14), normal(2, 5, 3, 14)
    y = references.rotary(x, *tables, 2, 1.0)["y"]
    dx = references.rotary(dy, *tables, 2, -1.0)["y"]
    assert (y * dy).sum() == pytest.approx((x * dx).sum())
    np.testing.assert_allclose(references.rotary(y, *tables, 2, -1.0)["y"], x, atol=1e-12)
