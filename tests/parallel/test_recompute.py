"""Recomputing changes no gradient, dropout included, recomputes what it says, and saves memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
import pytest

from llm_pretrain.models.decoder import Decoder, FeedForward
from llm_pretrain.models.layers import Attention
from llm_pretrain.ops import dispatch
from llm_pretrain.parallel.comm.topology import current
from llm_pretrain.parallel.layers.micro_batch import whole_sequences
from llm_pretrain.parallel.sharding.pieces import initialize
from llm_pretrain.training.stage import apply_recompute, build_stage, join_blocks
from tests import cpp_operators
from tests.launching import run_job
from tests.models.small import small_config

LAYERS = 4
DROPOUT = small_config(
    num_hidden_layers=LAYERS, attention_bias=True, attention_dropout=0.3, hidden_dropout=0.2
)
TOKENS = np.random.default_rng(0).integers(0, DROPOUT.vocab_size, [2, 9])
WORKER = Path(__file__).with_name("recompute_memory_worker.py")


def build() -> Decoder:
    stage = build_stage(DROPOUT, current())
    initialize(stage, seed=0)
    return stage


def gradients(stage: Decoder) -> list[np.ndarray]:
    tokens = paddle.to_tensor(TOKENS)
    stage(tokens[:, :-1], whole_sequences(2, 8), tokens[:, 1:]).mean().backward()
    return [parameter.grad.numpy() for parameter in stage.parameters()]


def assert_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(autouse=True, params=["references", "C++"])
def _operators(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "C++":
        pytest.importorskip("llm_pretrain_ops", reason="not built: make ops")
        assert cpp_operators.serve()
    yield
    dispatch.use_references()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often attention's core and the feed-forward layers were computed."""
    counted: Counter[str] = Counter()
    for kind, method in ((Attention, "core"), (FeedForward, "forward")):
        plain = getattr(kind, method)

        def call(self, *arguments, _plain=plain):
            counted[type(self).__name__] += 1
            return _plain(self, *arguments)

        monkeypatch.setattr(kind, method, call)
    return counted


@pytest.mark.parametrize(
    ("granularity", "attention", "feed_forward"),
    [("full", 8, 8), ("full_attn", 8, 4), ("core_attn", 8, 4)],
)
def test_gradients_are_the_same_and_only_the_named_part_runs_twice(
    calls: Counter[str], granularity: str, attention: int, feed_forward: int
) -> None:
    expected = gradients(build())
    calls.clear()
    stage = build()
    apply_recompute(stage.blocks, granularity)
    assert_equal(gradients(stage), expected)
    assert calls == {"Attention": attention, "FeedForward": feed_forward}


def test_layers_can_be_left_out(calls: Counter[str]) -> None:
    stage = build()
    apply_recompute(stage.blocks, "full", except_layers=[0])
    gradients(stage)
    assert calls == {"Attention": 7, "FeedForward": 7}


@pytest.mark.parametrize(
    ("length", "apart", "first_layers"),
    [(2, [], [0, 2]), (3, [], [0, 3]), (9, [], [0]), (2, [1], [0, 2]), (2, [2], [0, 3])],
)
def test_blocks_in_a_row_are_recomputed_as_one(
    calls: Counter[str], length: int, apart: list[int], first_layers: list[int]
) -> None:
    expected = gradients(build())
    calls.clear()
    stage = build()
    runs = join_blocks(stage, length, apart=apart)
    assert list(runs) == first_layers
    apply_recompute(runs, "full")
    assert_equal(gradients(stage), expected)
    computed = 2 * LAYERS - len(apart)
    assert calls == {"Attention": computed, "FeedForward": computed}


def test_evaluation_recomputes_nothing(calls: Counter[str]) -> None:
    stage = build()
    apply_recompute(stage.blocks, "full")
    stage.eval()
    stage(paddle.to_tensor(TOKENS), whole_sequences(2, 9))
    assert calls == {"Attention": LAYERS, "FeedForward": LAYERS}


def test_what_is_recomputed_is_not_held(tmp_path: Path) -> None:
    """Bytes that a step allocates at its peak, in multiples of the hidden states [B, S, H]."""
    run_job(WORKER, tmp_path / "found.json", log_dir=tmp_path)
    peak = json.loads((tmp_path / "found.json").read_text())
    assert peak["none"] > peak["core_attn"] > peak["full_attn"] > peak["full"]
    # "full" but for half the layers.
    middle = (peak["none"] + peak["full"]) / 2
    assert peak["no_recompute_layers"] == pytest.approx(middle, rel=0.2)
