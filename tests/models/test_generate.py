"""Continuing a text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from llm_pretrain.checkpoint.find_model import load_model
from llm_pretrain.config.model_config import BlankInfilling
from llm_pretrain.data.blanks import TextWithBlanks, cut_blanks
from llm_pretrain.data.samples import Sample
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.generate import generate
from llm_pretrain.parallel.layers.micro_batch import Sequences
from tests.checkpoint.models import TINY, write_random_model
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


def test_a_temperature_near_0_takes_the_most_probable_token(model: Decoder) -> None:
    assert generate(model, [1], 5, temperature=5e-324, top_p=0.5) == generate(model, [1], 5)


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
    assert generate(model, [1], 10, stop_tokens=[stop]) == text[: text.index(stop)]


def test_a_text_longer_than_the_positions(model: Decoder) -> None:
    assert len(generate(model, list(range(40)), 3)) == 3


def test_dropout_is_off_and_the_mode_restored() -> None:
    model = small_model(hidden_dropout=0.5, initializer_range=0.5)
    model.train()
    assert generate(model, [1], 5) == generate(model, [1], 5)
    assert model.training


def test_top_p_draws_from_the_most_probable(model: Decoder) -> None:
    logits = model(paddle.to_tensor([[5]])).numpy()[0, -1].astype(np.float64)
    weights = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-weights)
    fewest = int(np.searchsorted(np.cumsum(weights[order]), 0.7)) + 1
    drawn = {
        generate(model, [5], 1, temperature=1.0, top_p=0.7, seed=seed)[0] for seed in range(300)
    }
    assert 1 < fewest < 64
    assert drawn == set(order[:fewest].tolist())


def test_the_cache_leaves_each_layer_the_new_token_alone(
    model: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = []
    forward = Decoder.forward

    def counted(self: Decoder, x: paddle.Tensor, *rest: Any) -> paddle.Tensor:
        lengths.append(x.shape[1])
        return forward(self, x, *rest)

    monkeypatch.setattr(Decoder, "forward", counted)
    generate(model, [3, 1, 4], 4)
    assert lengths == [3, 1, 1, 1]


@pytest.mark.parametrize("name", TINY)
def test_with_a_cache_as_without(name: str, tmp_path: Path) -> None:
    """Every family: each token is the most probable of the model that sees the whole text."""
    config = write_random_model(name, tmp_path)
    model = load_model(tmp_path)
    text = [3, 1, 4, 1, 5]
    found = generate(model, text, 12)
    if config.blank_infilling is None:
        logits = model(paddle.to_tensor([text + found[:-1]])).numpy()[0, len(text) - 1 :]
        assert found == logits.argmax(-1).tolist()
        return
    batch = _long_blank(config.blank_infilling, text, found)
    logits = model(paddle.to_tensor(batch.inputs[None]), _structure(batch)).numpy()[0]
    assert found == logits[batch.prefix : batch.prefix + len(found)].argmax(-1).tolist()


def _long_blank(blanks: BlankInfilling, text: list[int], found: list[int]) -> TextWithBlanks:
    """Samples of training with one long blank: the one in which just `found` is predicted."""
    tokens = np.array([*text, *found])
    sample = Sample(tokens, None)
    for seed in range(1000):
        generator = np.random.default_rng(seed)
        cut = cut_blanks(sample, len(tokens) + 1, replace(blanks, long_share=1.0), generator)
        if cut.prefix == len(text) + 1:
            return cut
    raise AssertionError("no such sample")


def _structure(cut: TextWithBlanks) -> Sequences:
    length = len(cut.inputs)
    return Sequences(
        length,
        (0,),
        ((0, length),),
        position_ids=cut.positions[None],
        block_position_ids=cut.block_positions[None],
        prefix_ends=np.full((1, length), cut.prefix),
    )
