"""The operators and their gradients against their formulas, in every precision."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import Tensor

from llm_pretrain import ops
from llm_pretrain.ops import random_bits
from tests.ops import formulas
from tests.ops.comparison import Halves
from tests.ops.formulas import assert_equal_formula

DTYPES = ["float32", "bfloat16", "float16"]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear(dtype: str) -> None:
    arrays = [normal(2, 5, 6), normal(6, 7, seed=1), normal(7, seed=2)]
    assert_equal_formula(ops.linear, lambda x, w, b: paddle.matmul(x, w) + b, arrays, dtype)
    assert_equal_formula(ops.linear, paddle.matmul, arrays[:2], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_linear_maps_of_an_input_that_ranks_share(dtype: str, transposed: bool) -> None:
    turn = reversed if transposed else tuple
    arrays = [normal(2, 5, 6), *(normal(*turn((6, n)), seed=n) for n in (7, 3)), normal(3, seed=2)]

    def maps(x: Tensor, v: Tensor, w: Tensor, b: Tensor, shared: Halves | None) -> Tensor:
        ys = ops.linears(x, [v, w], [None, b], transposed=transposed, shared=shared)
        return paddle.concat([y.astype("float64") for y in ys], axis=-1)

    assert_equal_formula(
        lambda *operands: maps(*operands, Halves()),
        lambda x, *rest: maps(paddle.concat([x, x]), *rest, None),
        arrays,
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm(dtype: str) -> None:
    arrays = [3 * normal(2, 5, 16), 1 + 0.3 * normal(16, seed=1)]
    assert_equal_formula(
        lambda x, w: ops.rms_norm(x, w, 1e-5),
        lambda x, w: formulas.rms_norm(x, w, 1e-5),
        arrays,
        dtype,
    )


def test_rms_norm_of_zeros_is_zero() -> None:
    x = paddle.zeros([1, 4])
    x.stop_gradient = False
    y = ops.rms_norm(x, paddle.ones([4]), 1e-6)
    y.sum().backward()
    assert (y.numpy() == 0).all()
    assert np.isfinite(x.grad.numpy()).all()


@pytest.mark.parametrize("frozen", [0, 1])
def test_rms_norm_with_one_frozen_operand(frozen: int) -> None:
    operands = [paddle.randn([2, 4]), paddle.ones([4])]
    operands[1 - frozen].stop_gradient = False
    ops.rms_norm(*operands, 1e-6).sum().backward()
    assert operands[frozen].grad is None
    assert operands[1 - frozen].grad is not None


@pytest.mark.parametrize("dtype", DTYPES)
def test_normalise_columns(dtype: str) -> None:
    assert_equal_formula(
        ops.normalise_columns,
        lambda w: w / w.square().sum(0, keepdim=True).sqrt(),
        [3 * normal(6, 7, seed=1)],
        dtype,
    )


def test_a_column_of_zeros_stays_and_gets_no_gradient() -> None:
    """Such a column pads a vocabulary that is split; its logits have no gradient."""
    weight = paddle.to_tensor([[3.0, 0.0], [4.0, 0.0]], stop_gradient=False)
    y = ops.normalise_columns(weight)
    np.testing.assert_allclose(y.numpy(), [[0.6, 0], [0.8, 0]], rtol=1e-6)
    (y[:, 0] * paddle.to_tensor([1.0, 2.0])).sum().backward()
    np.testing.assert_array_equal(weight.grad.numpy()[:, 1], [0, 0])
    assert (weight.grad.numpy()[:, 0] != 0).all()


def test_rms_norm_keeps_float32_where_the_weight_is_lower() -> None:
    y = ops.rms_norm(paddle.ones([1, 4]), paddle.ones([4], dtype="bfloat16"), 1e-6)
    assert y.dtype == paddle.float32


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu(dtype: str) -> None:
    assert_equal_formula(
        lambda gate, up: ops.activation("silu", gate, up),
        formulas.swiglu,
        [normal(2, 5, 8), normal(2, 5, 8, seed=1)],
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", [0, 1])
def test_rotary(dtype: str, which: int) -> None:
    """Queries (which = 0) and keys, of which there are fewer heads."""
    angles = np.tile(normal(5, 4, seed=1), [1, 2])
    cos, sin = (paddle.to_tensor(f(angles).astype(np.float32)) for f in (np.cos, np.sin))
    other = paddle.zeros([2, 5, 2, 8])

    def rotated(x: paddle.Tensor) -> paddle.Tensor:
        return ops.rotary(*((x, other) if which == 0 else (other, x)), cos, sin)[which]

    assert_equal_formula(rotated, lambda x: formulas.rotate(x, angles), [normal(2, 5, 3, 8)], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_add(dtype: str) -> None:
    arrays = [normal(2, 5, 8), normal(2, 5, 8, seed=1)]
    assert_equal_formula(ops.add, paddle.add, arrays, dtype)


def test_a_sum_has_the_dtype_of_the_residual() -> None:
    assert ops.add(paddle.ones([2]), paddle.ones([2], dtype="bfloat16")).dtype == paddle.float32


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_of_a_sum(dtype: str) -> None:
    arrays = [normal(2, 5, 16), normal(2, 5, 16, seed=1), 1 + 0.3 * normal(16, seed=2)]
    assert_equal_formula(
        lambda x, branch, w: ops.add_rms_norm(x, branch, w, 1e-5)[1],
        lambda x, branch, w: formulas.rms_norm(x + branch, w, 1e-5),
        arrays,
        dtype,
    )


def test_dropout_leaves_out_a_share() -> None:
    rows = paddle.to_tensor(random_bits.numbers(0, "here", np.arange(1), np.arange(100))[0])
    trained = ops.dropout(paddle.ones([100, 100]), 0.25, rows).numpy()
    assert set(np.unique(trained.round(4))) == {np.float32(0), np.float32(1.3333)}
    assert (trained == 0).mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy(dtype: str) -> None:
    labels = np.array([[3, -100, 0], [-100, 10, 5]])
    assert_equal_formula(
        lambda logits: ops.cross_entropy(logits, paddle.to_tensor(labels)),
        lambda logits: formulas.cross_entropy(logits, labels, -100),
        [3 * normal(2, 3, 11)],
        dtype,
    )


def test_cross_entropy_of_ignored_tokens_is_exactly_zero() -> None:
    logits = paddle.to_tensor(normal(1, 3, 7))
    logits.stop_gradient = False
    losses = ops.cross_entropy(logits, paddle.to_tensor([[-100, 2, -100]]), -100)
    losses.sum().backward()
    assert losses.dtype == paddle.float32
    assert losses.numpy()[0, [0, 2]].tolist() == [0, 0]
    assert (logits.grad.numpy()[0, [0, 2]] == 0).all()


def test_cross_entropy_of_large_logits_has_its_gradient() -> None:
    logits = paddle.to_tensor([[1e4, -1e4]], stop_gradient=False)
    loss = ops.cross_entropy(logits, paddle.to_tensor([1]))
    loss.sum().backward()
    assert 64 <= float(loss) <= 2e4
    assert logits.grad.numpy().tolist() == [[1, -1]]
