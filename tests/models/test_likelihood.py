"""The probability of given tokens, against the softmax of the logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
import pytest

from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.likelihood import Predicted, losses
from tests.models.small import small_model

TOKENS = np.random.default_rng(0).integers(0, 64, 40).tolist()


@pytest.fixture(scope="module")
def model() -> Decoder:
    return small_model(initializer_range=0.5)


def nats(model: Decoder, tokens: Sequence[int], begin: int) -> float:
    """Of the tokens from `begin` on, from all those before them."""
    logits = model(paddle.to_tensor([list(tokens[:-1])])).numpy()[0].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return float(-sum(logs[at - 1, tokens[at]] for at in range(begin, len(tokens))))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_texts_of_many_lengths(model: Decoder, batch_size: int) -> None:
    texts = [Predicted(TOKENS[:20]), Predicted(TOKENS[3:5]), Predicted(TOKENS[5:20], 9)]
    expected = [nats(model, text.tokens, text.begin) for text in texts]
    found = list(losses(model, texts, window=32, batch_size=batch_size))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_long_text_is_cut_into_windows(model: Decoder) -> None:
    parts = [TOKENS[0:17], TOKENS[16:33], TOKENS[32:40]]
    expected = [sum(nats(model, part, 1) for part in parts), nats(model, TOKENS[:3], 1)]
    texts = [Predicted(TOKENS), Predicted(TOKENS[:3])]
    found = list(losses(model, texts, window=16, batch_size=2))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_of_a_long_context_the_end_is_seen(model: Decoder) -> None:
    (found,) = losses(model, [Predicted(TOKENS, 35)], window=16)
    assert found == pytest.approx(nats(model, TOKENS[23:], 35 - 23), rel=1e-5)


def test_no_text_has_no_loss(model: Decoder) -> None:
    assert list(losses(model, [], window=16)) == []
