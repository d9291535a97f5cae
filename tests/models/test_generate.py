"""Continuing a text."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.generate import generate
from tests.models.small import small_model


@pytest.fixture
def model() -> Decoder:
    return small_model(initializer_range=0.5)


def test_greedy_takes_the_most_probable_token(model: Decoder) -> None:
    text = [3, 1, 4]
    continued = generate(model, text, 5)
    assert len(continued) == 5
    for token in continued:
        assert token == int(model(paddle.to_tensor([text])).numpy()[0, -1].argmax())
        text.append(token)


def test_draws_follow_the_seed(model: Decoder) -> None:
    draws = [generate(model, [1], 20, temperature=2.0, seed=seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_draws_follow_the_distribution(model: Decoder) -> None:
    logits = model(paddle.to_tensor([[5]])).numpy()[0, -1]
    expected = np.exp(logits / 0.5 - (logits / 0.5).max())
    expected /= expected.sum()
    drawn = [generate(model, [5], 1, temperature=0.5, seed=seed)[0] for seed in range(400)]
    counts = np.bincount(drawn, minlength=64) / 400
    np.testing.assert_allclose(counts, expected, atol=0.08)


def test_stops_at_the_stop_token(model: Decoder) -> None:
    text = generate(model, [1], 10)
    stop = text[3]
    assert generate(model, [1], 10, stop_token=stop) == text[: text.index(stop)]


def test_a_text_longer_than_the_positions(model: Decoder) -> None:
    assert len(generate(model, list(range(40)), 3)) == 3


def test_dropout_is_off_and_the_mode_restored() -> None:
    model = small_model(hidden_dropout=0.5, initializer_range=0.5)
    model.train()
    assert generate(model, [1], 5) == generate(model, [1], 5)
    assert model.training
