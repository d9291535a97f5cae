"""The operators in C++ against the references, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import paddle
import pytest
from paddle import Tensor

from llm_pretrain import ops
from llm_pretrain.ops import dispatch, precision
from llm_pretrain.ops.mask import Mask
from llm_pretrain.ops.native import library

BOUNDS = {"float32": 3e-6, "bfloat16": 1e-2}
"""Largest difference, relative to the largest value: a few roundings of the type."""


@pytest.fixture(autouse=True)
def _built() -> Iterator[None]:
    found, reason = library.find()
    if found is None:
        pytest.skip(reason)
    yield
    dispatch.use_references()
    precision.set_compute_dtype("float32")


def results(operator: Callable, operands: list[Tensor]) -> list[np.ndarray]:
    """Outputs, and gradients under random weights of the outputs."""
    inputs = [operand.detach().clone() for operand in operands]
    for x in inputs:
        x.stop_gradient = False
    outputs = operator(*inputs)
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    paddle.seed(3)
    total = paddle.zeros([])
    for y in outputs:
        total = total + (y.astype("float32") * paddle.randn(y.shape)).sum()
    total.backward()
    return [x.astype("float32").numpy() for x in (*outputs, *(x.grad for x in inputs))]


def check(operator: Callable, *operands: Tensor, bound: float) -> None:
    dispatch.use_references()
    expected = results(operator, list(operands))
    switches = dict.fromkeys(dispatch.OPERATORS, True)
    choices = dispatch.choose(switches, dict.fromkeys(dispatch.OPERATORS, lambda: None))
    assert {choice.implementation for choice in choices} == {"C++"}
    for ours, theirs in zip(results(operator, list(operands)), expected, strict=True):
        assert np.abs(ours - theirs).max() <= bound * max(1e-6, np.abs(theirs).max())


def normal(dtype: str, *shape: int) -> Tensor:
    return paddle.randn(shape).astype(dtype)


@pytest.fixture(params=BOUNDS)
def dtype(request: pytest.FixtureRequest) -> str:
    paddle.seed(1)
    return request.param


def test_norms(dtype: str) -> None:
    x, w, b = normal(dtype, 3, 5, 37) + 2, normal(dtype, 37), normal(dtype, 37)
    check(lambda x, w: ops.rms_norm(x, w, 1e-6), x, w, bound=BOUNDS[dtype])
    check(lambda x, w, b: ops.layer_norm(x, w, b, 1e-6), x, w, b, bound=BOUNDS[dtype])


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "relu"])
def test_activations(dtype: str, name: str) -> None:
    x, up = normal(dtype, 3, 5000) * 3, normal(dtype, 3, 5000)
    check(lambda x: ops.activation(name, x), x, bound=BOUNDS[dtype])
    check(lambda x, up: ops.activation(name, x, up), x, up, bound=BOUNDS[dtype])


@pytest.mark.parametrize(("spans", "turned"), [(1, 16), (8, 16), (2, 16), (1, 8), (4, 8)])
def test_rotary(dtype: str, spans: int, turned: int) -> None:
    angles = paddle.rand([2, 7, spans, 1, turned // spans // 2]).tile([1, 1, 1, 2, 1])
    angles = angles.reshape([2, 7, turned])
    q, k = normal(dtype, 2, 7, 4, 16), normal(dtype, 2, 7, 2, 16)
    check(
        lambda q, k: ops.rotary(q, k, angles.cos(), angles.sin(), spans=spans),
        q,
        k,
        bound=BOUNDS[dtype],
    )


def test_linear_maps_of_one_input(dtype: str) -> None:
    x, first, second = normal(dtype, 2, 9, 24), normal(dtype, 24, 33), normal(dtype, 24, 17)
    bias, turned = normal(dtype, 17), normal(dtype, 33, 24)
    check(
        lambda x, v, w, b: ops.linears(x, [v, w], [None, b]),
        *(x, first, second, bias),
        bound=BOUNDS[dtype],
    )
    check(lambda x, w: ops.linear(x, w, transposed=True), x, turned, bound=BOUNDS[dtype])


MASKS = {
    "causal": Mask(),
    "slopes": Mask(slopes=np.array([0.5, 0.25, 0.1, 0.05], np.float32)),
    "prefix": Mask(prefix_lengths=np.array([100, 301])),
    "documents": Mask(
        document_starts=np.stack(
            [np.repeat([0, 100, 290], [100, 190, 110]), np.repeat([0, 5], [5, 395])]
        )
    ),
}


@pytest.mark.parametrize("mask", MASKS)
def test_attention(dtype: str, mask: str) -> None:
    operands = (
        normal(dtype, 2, 400, 4, 24),
        normal(dtype, 2, 400, 2, 24),
        normal(dtype, 2, 400, 2, 24),
    )
    check(lambda q, k, v: ops.attention(q, k, v, MASKS[mask]), *operands, bound=BOUNDS[dtype])


def test_products_in_bfloat16_of_float32_tensors() -> None:
    precision.set_compute_dtype("bfloat16")
    x, w, b = (normal("float32", *shape) for shape in ((2, 9, 24), (24, 33), (33,)))
    check(ops.linear, x, w, b, bound=1e-2)


def test_a_step_of_adamw() -> None:
    rates = ops.Rates(1e-2, 0.9, 0.95, 1e-8, 0.1, 0.5, 0.9**3, 0.95**3)

    def step() -> list[np.ndarray]:
        paddle.seed(2)
        weights, first, gradient = (paddle.randn([20001]) for _ in range(3))
        second = paddle.rand([20001])
        ops.adamw_(weights, first, second, gradient, rates)
        return [x.numpy() for x in (weights, first, second)]

    dispatch.use_references()
    expected = step()
    dispatch.choose({}, dict.fromkeys(dispatch.OPERATORS, lambda: None))
    for ours, theirs in zip(step(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_a_failed_trial_leaves_the_reference() -> None:
    def fails() -> None:
        raise RuntimeError("no agreement")

    trials = {**dict.fromkeys(dispatch.OPERATORS, lambda: None), "norm": fails}
    choices = {choice.operator: choice for choice in dispatch.choose({"rotary": False}, trials)}
    assert choices["norm"].implementation == "reference"
    assert "no agreement" in choices["norm"].reason
    assert choices["rotary"].reason == "switched off in the config"
    assert choices["linear"].implementation == "C++"
    with pytest.raises(dispatch.OperatorError, match="norm"):
        dispatch.choose({"norm": True}, trials, strict=True)


def test_the_library_refuses_what_makes_no_sense() -> None:
    x = paddle.randn([4])
    with pytest.raises(RuntimeError, match="over nothing"):
        library.call("rms_norm", 4, 0, x, None, None, x.dtype, x, 1e-6, x, x)
