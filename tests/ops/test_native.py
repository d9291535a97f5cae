"""The operators in C++ against the references, forward and backward."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import paddle
import pytest
from paddle import Tensor
from paddle.distributed.fleet.utils import recompute

from llm_pretrain import ops
from llm_pretrain.ops import OPERATORS, dispatch, gradients, paddle_attention
from llm_pretrain.ops.cuda import library as cuda
from llm_pretrain.ops.mask import Mask
from llm_pretrain.ops.native import library
from llm_pretrain.ops.native import norm as native_norm
from llm_pretrain.ops.operator import PADDLE, set_compute_dtype
from tests import cpp_operators
from tests.ops.comparison import Halves, close, results

BOUNDS = {"float32": 3e-6, "bfloat16": 1e-2}
"""Largest difference, relative to the largest value: a few roundings of the type."""


@pytest.fixture(autouse=True)
def _built() -> Iterator[None]:
    found, reason = library.find()
    if found is None:
        pytest.skip(reason)
    yield
    dispatch.use_references()
    set_compute_dtype("float32")


def use_native() -> None:
    assert cpp_operators.serve()


def check(operator: Callable, *operands: Tensor, bound: float) -> None:
    dispatch.use_references()
    expected = results(operator, list(operands))
    use_native()
    close(results(operator, list(operands)), expected, bound)


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


def test_the_gradient_of_a_shared_input_is_summed_while_those_of_weights_are_computed() -> None:
    x, first, second = (normal("float32", *shape) for shape in ([2, 24], [24, 33], [24, 17]))
    shared = Halves()

    def share(x: Tensor, *weights: Tensor) -> list[Tensor]:
        for weight in weights:
            gradients.offer_sum(weight, lambda: shared.events.append("weight"))
        return ops.linears(x, weights, [None, None], shared=shared)

    check(share, x, first, second, bound=BOUNDS["float32"])
    by_reference = ["start", "wait"]
    assert shared.events == [*by_reference, "start", "weight", "weight", "wait"]


MASKS = {
    "causal": Mask(),
    "slopes": Mask(slopes=np.array([0.5, 0.25, 0.1, 0.05], np.float32)),
    "prefix": Mask(prefix_ends=np.repeat([[100], [301]], 400, axis=1)),
    "prefixes": Mask(
        prefix_ends=np.stack(
            [np.repeat([60, 190, 399], [100, 190, 110]), np.repeat([5, 300], [5, 395])]
        )
    ),
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
    set_compute_dtype("bfloat16")
    x, w, b = (normal("float32", *shape) for shape in ((2, 9, 24), (24, 33), (33,)))
    check(ops.linear, x, w, b, bound=1e-2)


RATES = {
    "learning_rate": 1e-2,
    "beta1": 0.9,
    "beta2": 0.95,
    "epsilon": 1e-8,
    "weight_decay": 0.1,
    "gradient_factor": 0.5,
    "step": 3,
}


def test_a_step_of_adamw() -> None:
    def step() -> list[np.ndarray]:
        paddle.seed(2)
        weights, first, gradient = (paddle.randn([20001]) for _ in range(3))
        second = paddle.rand([20001])
        ops.adamw_(weights, first, second, gradient, **RATES)
        return [x.numpy() for x in (weights, first, second)]

    dispatch.use_references()
    expected = step()
    use_native()
    for ours, theirs in zip(step(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask = MASKS["causal"]) -> Tensor:
    return ops.attention(q, k, v, mask)


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return ops.rotary(q, k, cos, sin)


def head(x: Tensor, weight: Tensor, labels: Tensor, vocabulary: int = 5) -> tuple[Tensor, ...]:
    return ops.linear_log_sums(x, weight, labels, vocabulary=vocabulary)


def silu(x: Tensor, up: Tensor) -> Tensor:
    return ops.activation("silu", x, up)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return ops.rms_norm(x, weight, 1e-6)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return ops.layer_norm(x, weight, bias, 1e-6)


def with_gaps(x: Tensor) -> Tensor:
    """The same numbers, not contiguous."""
    apart = paddle.stack([x, x + 1], axis=-1)[..., 0]
    assert not apart.is_contiguous()
    return apart


@pytest.mark.parametrize(
    ("operator", "shapes"),
    [
        (rms_norm, [(3, 8), (8,)]),
        (layer_norm, [(3, 8), (8,), (8,)]),
        (silu, [(3, 8), (3, 8)]),
        (attend, [(2, 5, 4, 8), (2, 5, 2, 8), (2, 5, 2, 8)]),
        (rotate, [(2, 5, 4, 8), (2, 5, 2, 8), (5, 8), (5, 8)]),
        (ops.linear, [(3, 8), (8, 6), (6,)]),
    ],
)
def test_operands_with_gaps(
    dtype: str, operator: Callable[..., Tensor], shapes: list[tuple[int, ...]]
) -> None:
    use_native()
    is_table = operator is rotate
    operands = [
        normal("float32" if is_table and len(shape) == 2 else dtype, *shape) for shape in shapes
    ]
    whole, apart = operator(*operands), operator(*map(with_gaps, operands))
    pairs = zip(whole, apart, strict=True) if is_table else [(whole, apart)]
    for x, y in pairs:
        assert (x == y).all().item()


def columns(x: Tensor, weight: Tensor) -> Tensor:
    """A linear map by some columns, as of key heads that several ranks compute."""
    return ops.linear(x, weight[:, 2:6])


def after_a_norm(x: Tensor, weight: Tensor) -> Tensor:
    return ops.linear(ops.rms_norm(x.T, paddle.ones([3]), 1e-6), weight)


def after_an_activation(x: Tensor, weight: Tensor) -> Tensor:
    return ops.linear(ops.activation("silu", x.T, x.T), weight)


@pytest.mark.parametrize("operator", [columns, after_a_norm, after_an_activation])
def test_operands_with_gaps_may_be_recomputed(dtype: str, operator: Callable[..., Tensor]) -> None:
    use_native()
    x = normal(dtype, 3, 8)
    weight = normal(dtype, 8 if operator is columns else 3, 7)
    expected = results(operator, [x, weight])
    found = results(lambda *given: recompute(operator, *given, use_reentrant=False), [x, weight])
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("recomputes", [False, True])
def test_a_gradient_is_added_where_the_run_sums_it(recomputes: bool) -> None:
    use_native()
    x, weight = normal("float32", 5, 8), normal("float32", 8, 6)
    weight.stop_gradient = False
    total = paddle.ones([8, 6])
    gradients.offer_sum(weight, lambda: (total, True))
    if recomputes:
        y = recompute(ops.linear, x, weight, use_reentrant=False)
    else:
        y = ops.linear(x, weight)
    y.sum().backward()
    assert weight.grad is None
    np.testing.assert_allclose(total, 1 + x.sum(0).unsqueeze(-1).expand([8, 6]), rtol=1e-5)


@pytest.mark.parametrize(
    ("operator", "shapes", "result"),
    [
        (rms_norm, [(0, 8), (8,)], [0, 8]),
        (layer_norm, [(0, 8), (8,), (8,)], [0, 8]),
        (silu, [(0, 8), (0, 8)], [0, 8]),
        (ops.linear, [(0, 8), (8, 6), (6,)], [0, 6]),
    ],
)
def test_nothing_gives_nothing(
    operator: Callable[..., Tensor], shapes: list[tuple[int, ...]], result: list[int]
) -> None:
    use_native()
    assert operator(*(normal("float32", *shape) for shape in shapes)).shape == result


# What the library would read beyond, or as another type.
MISFITS = {
    "weight is [4] where [8]": (rms_norm, [(3, 8), (4,)]),
    "bias is [4] where [8]": (layer_norm, [(3, 8), (8,), (4,)]),
    "up is [3, 4] where [3, 8]": (silu, [(3, 8), (3, 4)]),
    "k is [2, 4, 2, 8]": (attend, [(2, 5, 4, 8), (2, 4, 2, 8), (2, 4, 2, 8)]),
    "v is [2, 5, 2, 4]": (attend, [(2, 5, 4, 8), (2, 5, 2, 8), (2, 5, 2, 4)]),
    "cos is [4, 8] where [5, 8]": (rotate, [(2, 5, 4, 8), (2, 5, 2, 8), (4, 8), (4, 8)]),
    "sin is [5, 4] where [5, 8]": (rotate, [(2, 5, 4, 8), (2, 5, 2, 8), (5, 8), (5, 4)]),
    "turn 16 features": (rotate, [(2, 5, 4, 8), (2, 5, 2, 8), (5, 16), (5, 16)]),
    "weight is [7, 6] where [8, 6]": (ops.linear, [(3, 8), (7, 6)]),
    "bias is [5] where [6]": (ops.linear, [(3, 8), (8, 6), (5,)]),
    "vocabulary of 5 where the weight has 4": (head, [(3, 8), (8, 4), "labels"]),
    "labels is [3] where [2]": (head, [(2, 8), (8, 5), "labels"]),
    "labels is paddle.float32": (head, [(3, 8), (8, 5), (3,)]),
}


@pytest.mark.parametrize("words", MISFITS)
def test_operands_that_do_not_fit_are_refused(words: str) -> None:
    use_native()
    operator, shapes = MISFITS[words]
    labels = paddle.zeros([3], "int64")
    operands = [labels if shape == "labels" else normal("float32", *shape) for shape in shapes]
    with pytest.raises(ValueError, match=re.escape(words)):
        operator(*operands)


def test_operands_of_two_types_are_refused() -> None:
    use_native()
    with pytest.raises(ValueError, match=r"up is paddle\.bfloat16"):
        silu(normal("float32", 3), normal("bfloat16", 3))
    rules = Mask(prefix_ends=np.array([[1, 2, 3]]))
    with pytest.raises(ValueError, match=re.escape("prefix_ends is [1, 3] where [2, 5]")):
        attend(*(normal("float32", 2, 5, 2, 8) for _ in range(3)), rules)


def test_moments_of_another_size_are_refused() -> None:
    use_native()
    with pytest.raises(ValueError, match=re.escape("moment2 is [4] where [5]")):
        ops.adamw_(*(normal("float32", size) for size in (5, 5, 4, 5)), **RATES)


def test_a_failed_self_test_leaves_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Tensor:
        raise RuntimeError("no agreement")

    monkeypatch.setattr(native_norm, "norm", fails)
    choices = dispatch.choose({"rotary": False}, "float32")
    by_operator = {choice.operator: choice for choice in choices}
    assert by_operator["norm"].implementation == "reference"
    assert "no agreement" in by_operator["norm"].reason
    assert by_operator["rotary"].reason == "switched off in the config"
    assert by_operator["linear"].implementation == "C++"


def test_a_kernel_of_paddles_serves_unless_it_is_switched_off_or_fails_its_self_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "is_device", lambda: True)
    monkeypatch.setattr(paddle_attention, "device_has_kernel", lambda: True)
    operator = OPERATORS["attention"]

    def chosen(
        switch: bool | None, kernel: Callable[..., Tensor], dtype: str = "bfloat16"
    ) -> dispatch.Choice:
        monkeypatch.setattr(paddle_attention, "attention", kernel)
        choices = dispatch.choose({"attention": switch}, dtype)
        return next(choice for choice in choices if choice.operator == "attention")

    calls: list[Tensor] = []

    def right(q: Tensor, *_: object, **__: object) -> Tensor:
        calls.append(q)
        return NotImplemented  # so that the reference serves

    def wrong(q: Tensor, k: Tensor, v: Tensor, *_: object, **__: object) -> Tensor:
        return ops.add(q, ops.add(k, v))

    assert chosen(None, right).implementation == PADDLE
    assert calls
    assert operator.serving == (PADDLE,)
    with operator.by_reference():
        assert operator.serving == ()
    assert operator.serving == (PADDLE,)
    assert chosen(False, right).is_reference
    assert operator.serving == ()
    assert chosen(None, right, "float32").is_reference
    assert "the self-test of Paddle's kernel failed: it is" in chosen(True, wrong).reason
    assert operator.serving == ()


def test_the_library_refuses_what_makes_no_sense() -> None:
    x = paddle.randn([4])
    with pytest.raises(RuntimeError, match="over nothing"):
        library.call("rms_norm", 4, 0, x, None, x.dtype, None, x.dtype, x, 1e-6, x, x)
