"""The loss of every token, from logits and without them."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from llm_pretrain.ops import OPERATORS, dispatch, gradients, vocabulary_slices
from llm_pretrain.ops.native import library
from llm_pretrain.ops.operator import set_compute_dtype
from llm_pretrain.parallel.layers.vocabulary import (
    IGNORED_LABEL,
    VocabularyParallelHead,
    losses_of_logits,
)

HIDDEN, PRESENT = 12, 700


def test_the_losses_of_logits() -> None:
    z = np.random.default_rng(0).standard_normal((1, 3, 5))
    expected = [np.log(np.exp(z[0, i]).sum()) - z[0, i, label] for i, label in ((0, 2), (2, 4))]
    labels = paddle.to_tensor([[2, IGNORED_LABEL, 4]])
    losses = losses_of_logits(paddle.to_tensor(z, dtype="float32"), labels)
    np.testing.assert_allclose(losses.numpy(), [[expected[0], 0, expected[1]]], rtol=1e-6)


def test_where_nothing_counts_loss_and_gradient_are_zero() -> None:
    logits = paddle.randn([2, 3, 5])
    logits.stop_gradient = False
    losses = losses_of_logits(logits, paddle.full([2, 3], IGNORED_LABEL, dtype="int64"))
    losses.sum().backward()
    assert (losses.numpy() == 0).all()
    assert (logits.grad.numpy() == 0).all()


@pytest.fixture(params=["C++", "in chunks of Paddle's operators"])
def in_slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Heads that keep no logits, of some hundred columns at a time."""
    if request.param == "C++":
        found, reason = library.find()
        if found is None:
            pytest.skip(reason)
        OPERATORS["linear_cross_entropy"].serve_by("C++")
    else:
        monkeypatch.setattr(vocabulary_slices, "_LOGITS", 1)
    yield request.param
    dispatch.use_references()
    set_compute_dtype("float32")


def head(*, tied: bool, normalised: bool, in_slices: bool) -> VocabularyParallelHead:
    paddle.seed(1)
    table = paddle.create_parameter([PRESENT, HIDDEN], "float32") if tied else None
    made = VocabularyParallelHead(
        HIDDEN, PRESENT, std=1.0, tied_weight=table, normalised=normalised, in_slices=in_slices
    )
    made.weight.set_value(paddle.randn(made.weight.shape))
    return made


def outcome(made: VocabularyParallelHead) -> list[np.ndarray]:
    """Losses, and gradients of the hidden states and of the weight."""
    paddle.seed(2)
    x, factors = paddle.randn([2, 9, HIDDEN]), paddle.randn([2, 9])
    labels = paddle.randint(0, PRESENT, [2, 9])
    labels[0, 3] = IGNORED_LABEL
    x.stop_gradient = False
    losses = made(x, labels)
    (losses * factors).sum().backward()
    assert losses[0, 3] == 0
    assert (x.grad[0, 3] == 0).all()
    return [losses.numpy(), x.grad.numpy(), made.weight.grad.numpy()]


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "own"])
@pytest.mark.parametrize("normalised", [True, False], ids=["normalised", "plain"])
def test_chunks_give_what_logits_give(
    in_slices: str, compute: str, tied: bool, normalised: bool
) -> None:
    set_compute_dtype(compute)
    found = outcome(head(tied=tied, normalised=normalised, in_slices=True))
    dispatch.use_references()
    expected = outcome(head(tied=tied, normalised=normalised, in_slices=False))
    tolerance = 1e-5 if compute == "float32" else 3e-2
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def test_a_gradient_is_added_where_the_run_sums_it(in_slices: str) -> None:
    returned = outcome(head(tied=False, normalised=False, in_slices=True))[2]
    made = head(tied=False, normalised=False, in_slices=True)
    total = paddle.ones(made.weight.shape)
    gradients.offer_sum(made.weight, lambda: (total, True))
    with pytest.raises(AttributeError):  # autograd is given nothing
        outcome(made)
    np.testing.assert_allclose(total.numpy(), 1 + returned, rtol=1e-5, atol=1e-5)


def test_frozen_weights_and_inputs_get_no_gradient(in_slices: str) -> None:
    made = head(tied=False, normalised=False, in_slices=True)
    made.weight.stop_gradient = True
    x = paddle.randn([1, 4, HIDDEN])
    x.stop_gradient = False
    made(x, paddle.zeros([1, 4], "int64")).sum().backward()
    assert made.weight.grad is None
    made.weight.stop_gradient = False
    made(x.detach(), paddle.zeros([1, 4], "int64")).sum().backward()
    assert made.weight.grad is not None


def test_no_tokens_have_no_losses(in_slices: str) -> None:
    made = head(tied=False, normalised=False, in_slices=True)
    losses = made(paddle.zeros([0, 4, HIDDEN]), paddle.zeros([0, 4], "int64"))
    assert losses.shape == [0, 4]
    losses.sum().backward()
    assert (made.weight.grad == 0).all()


def test_z_loss_is_its_formula_in_loss_and_gradient() -> None:
    """L + c L² - z[label] in float64, and its gradient (1 + 2 c L) softmax - one-hot."""
    c, labels = 0.1, np.array([[2, IGNORED_LABEL, 4]])
    z = 3 * np.random.default_rng(0).standard_normal((1, 3, 5))
    logits = paddle.to_tensor(z, dtype="float32", stop_gradient=False)
    losses = losses_of_logits(logits, paddle.to_tensor(labels), c)
    losses.sum().backward()
    log_sums = np.log(np.exp(z).sum(-1))
    counts = labels != IGNORED_LABEL
    own = np.take_along_axis(z, np.where(counts, labels, 0)[..., None], -1)[..., 0]
    np.testing.assert_allclose(
        losses.numpy(), counts * (log_sums + c * log_sums**2 - own), rtol=1e-5
    )
    softmax = np.exp(z - log_sums[..., None]) * (1 + 2 * c * log_sums[..., None])
    expected = (softmax - np.eye(5)[np.where(counts, labels, 0)]) * counts[..., None]
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "own"])
def test_chunks_give_the_z_loss_that_logits_give(in_slices: str, compute: str, tied: bool) -> None:
    def found(*, slices: bool) -> list[np.ndarray]:
        made = head(tied=tied, normalised=False, in_slices=slices)
        made.z_loss_coefficient = 0.05
        return outcome(made)

    set_compute_dtype(compute)
    ours = found(slices=True)
    dispatch.use_references()
    theirs = found(slices=False)
    plain = outcome(head(tied=tied, normalised=False, in_slices=False))
    tolerance = 1e-5 if compute == "float32" else 3e-2
    for one, other, without in zip(ours, theirs, plain, strict=True):
        assert np.abs(one - other).max() <= tolerance * np.abs(other).max()
        assert np.abs(one - without).max() > 0.1 * np.abs(without).max()


def test_evaluation_leaves_the_z_loss_out(in_slices: str) -> None:
    made, x = head(tied=False, normalised=False, in_slices=True), paddle.randn([1, 4, HIDDEN])
    labels = paddle.zeros([1, 4], "int64")
    with paddle.no_grad():
        plain = made(x, labels)
        made.z_loss_coefficient = 1.0
        np.testing.assert_array_equal(made(x, labels).numpy(), plain.numpy())
    assert (made(x, labels) > plain).all()
