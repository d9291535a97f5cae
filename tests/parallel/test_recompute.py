"""Recomputing changes no gradient, dropout included, and recomputes what it says."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import paddle
import pytest

from llm_pretrain import ops
from llm_pretrain.models.loss import language_model_loss
from llm_pretrain.parallel.pieces import initialize
from llm_pretrain.parallel.recompute import apply_recompute
from llm_pretrain.parallel.topology import current
from llm_pretrain.training.stage import Stage, build_stage
from tests.parallel.test_pieces import CONFIG

DROPOUT = replace(CONFIG, attention_dropout=0.3, hidden_dropout=0.2)
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, [2, 9])


def build() -> Stage:
    stage = build_stage(DROPOUT, current())
    initialize(stage, seed=0)
    return stage


def gradients(stage: Stage) -> list[np.ndarray]:
    paddle.seed(1)
    tokens = paddle.to_tensor(TOKENS)
    language_model_loss(stage(tokens[:, :-1]), tokens[:, 1:]).backward()
    return [parameter.grad.numpy() for parameter in stage.parameters()]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often attention's core and the feed-forward's activation were computed."""
    counted: Counter[str] = Counter()
    for name in ("attention", "swiglu"):
        operator = getattr(ops, name)

        def call(*arguments, _name=name, _operator=operator, **named):
            counted[_name] += 1
            return _operator(*arguments, **named)

        monkeypatch.setattr(ops, name, call)
    return counted


@pytest.mark.parametrize(
    ("granularity", "attention", "swiglu"),
    [("full", 4, 4), ("full_attn", 4, 2), ("core_attn", 4, 2)],
)
def test_gradients_are_the_same_and_only_the_named_part_runs_twice(
    calls: Counter[str], granularity: str, attention: int, swiglu: int
) -> None:
    expected = gradients(build())
    calls.clear()
    stage = build()
    apply_recompute(stage.blocks, granularity)
    for found, wanted in zip(gradients(stage), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert calls == {"attention": attention, "swiglu": swiglu}


def test_layers_can_be_left_out(calls: Counter[str]) -> None:
    stage = build()
    apply_recompute(stage.blocks, "full", except_layers=[0])
    gradients(stage)
    assert calls == {"attention": 3, "swiglu": 3}


def test_evaluation_recomputes_nothing(calls: Counter[str]) -> None:
    stage = build()
    apply_recompute(stage.blocks, "full")
    stage.eval()
    stage(paddle.to_tensor(TOKENS))
    assert calls == {"attention": 2, "swiglu": 2}
