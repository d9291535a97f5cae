"""The loss of language modelling."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from llm_pretrain.models.loss import IGNORED_LABEL, language_model_loss


def logits_of(*shape: int) -> paddle.Tensor:
    logits = paddle.to_tensor(np.random.default_rng(0).standard_normal(shape), dtype="float32")
    logits.stop_gradient = False
    return logits


def test_mean_over_the_labels_that_count() -> None:
    logits = logits_of(1, 3, 5)
    z = logits.numpy()[0].astype(np.float64)
    losses = [np.log(np.exp(z[i]).sum()) - z[i, label] for i, label in ((0, 2), (2, 4))]
    loss = language_model_loss(logits, paddle.to_tensor([[2, IGNORED_LABEL, 4]]), 2)
    assert loss.shape == []
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-6)


def test_a_token_of_loss_zero_counts() -> None:
    logits = paddle.to_tensor([[[200.0, 0.0], [0.0, 0.0]]])
    loss = language_model_loss(logits, paddle.to_tensor([[0, 0]]), 2)
    assert float(loss) == pytest.approx(np.log(2) / 2)


def test_nothing_counts() -> None:
    logits = logits_of(2, 3, 5)
    loss = language_model_loss(logits, paddle.full([2, 3], IGNORED_LABEL, dtype="int64"), 1)
    loss.backward()
    assert float(loss) == 0
    assert (logits.grad.numpy() == 0).all()
