"""AdamW over flat shards against Paddle's own, and what happens to gradients that overflow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import paddle
import pytest
from paddle import nn

from llm_pretrain.config import TrainingArguments
from llm_pretrain.machine import device
from llm_pretrain.parallel.comm.topology import current
from llm_pretrain.parallel.sharding.optimizer import (
    GROWTH_INTERVAL,
    LossScale,
    ShardedAdamW,
    StepResult,
    sharding_of,
)


def step(optimizer: ShardedAdamW, learning_rate: float, scale: LossScale) -> StepResult:
    return optimizer.step(float(optimizer.reduce_gradients()), learning_rate, scale)


class Model(nn.Layer):
    prefix = ""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 1)

    def forward(self, x):
        return self.second(self.first(x).tanh()).square().mean()


def pair_of_models() -> tuple[Model, Model]:
    one, other = Model(), Model()
    other.set_state_dict(one.state_dict())
    return one, other


def arguments(**changes) -> TrainingArguments:
    return TrainingArguments(
        **{"output_dir": "out", "max_steps": 10, "weight_decay": 0.1, "max_grad_norm": 0.05}
        | changes
    )


def test_equals_paddles_adamw_with_its_clipping() -> None:
    paddle.seed(0)
    ours, theirs = pair_of_models()
    optimizer = ShardedAdamW(ours, arguments(), current(), tied_embedding=False)
    reference = paddle.optimizer.AdamW(
        0.01,
        parameters=theirs.parameters(),
        weight_decay=0.1,
        apply_decay_param_fun=lambda name: "w_0" in name,
        grad_clip=nn.ClipGradByGlobalNorm(0.05),
    )
    scale = LossScale(1.0, is_dynamic=False)
    for _ in range(5):
        x = paddle.randn([16, 6])
        ours(x).backward()
        result = step(optimizer, 0.01, scale)
        theirs(x).backward()
        norm = np.sqrt(sum((value.grad.numpy() ** 2).sum() for value in theirs.parameters()))
        reference.step()
        reference.clear_grad()
        assert result.global_norm == pytest.approx(norm, rel=1e-5)
        assert norm > 0.05, "the clipping is at work"
    for mine, value in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(mine.numpy(), value.numpy(), rtol=1e-5, atol=1e-7)


def test_an_overflow_in_float16_halves_the_scale_and_changes_nothing() -> None:
    model = Model()
    optimizer = ShardedAdamW(model, arguments(), current(), tied_embedding=False)
    before = [value.numpy().copy() for value in model.parameters()]
    scale = LossScale(1024.0, is_dynamic=True)
    (model(paddle.ones([2, 6])) * float("inf")).backward()
    assert step(optimizer, 0.01, scale).is_skipped
    assert scale.value == 512.0
    for value, old in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(value.numpy(), old)
    (model(paddle.ones([2, 6])) * scale.value).backward()
    assert not step(optimizer, 0.01, scale).is_skipped, "the overflow was cleared away"


def test_the_scale_does_not_change_the_step() -> None:
    one, other = pair_of_models()
    x = paddle.ones([2, 6])
    for model, factor in ((one, 1.0), (other, 1024.0)):
        optimizer = ShardedAdamW(model, arguments(), current(), tied_embedding=False)
        (model(x) * factor).backward()
        step(optimizer, 0.01, LossScale(factor, is_dynamic=True))
    for mine, value in zip(one.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(mine.numpy(), value.numpy())


def test_without_a_scale_a_gradient_that_is_not_finite_changes_nothing() -> None:
    model = Model()
    optimizer = ShardedAdamW(model, arguments(), current(), tied_embedding=False)
    before = [value.numpy().copy() for value in model.parameters()]
    (model(paddle.ones([2, 6])) * float("nan")).backward()
    assert step(optimizer, 0.01, LossScale(1.0, is_dynamic=False)).is_skipped
    for value, old in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(value.numpy(), old)


def test_gradients_that_are_dropped_leave_no_trace() -> None:
    one, other = pair_of_models()
    left, right = (
        ShardedAdamW(model, arguments(), current(), tied_embedding=False) for model in (one, other)
    )
    (one(paddle.ones([2, 6])) * 1e6).backward()
    left.reduce_gradients()
    left.drop_gradients()
    assert left.steps == 0
    for model, optimizer in ((one, left), (other, right)):
        model(paddle.ones([2, 6])).backward()
        step(optimizer, 0.01, LossScale(1.0, is_dynamic=False))
    for mine, value in zip(one.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(mine.numpy(), value.numpy())


def test_the_scale_grows_after_a_long_time_without_overflow() -> None:
    scale = LossScale(8.0, is_dynamic=True)
    for _ in range(GROWTH_INTERVAL):
        scale.update(overflowed=False)
    assert scale.value == 16.0
    assert scale.overflows(float("inf"))
    assert not scale.overflows(1e30)
    assert not LossScale(1.0, is_dynamic=True).overflows(float("nan")), "it can't be the scale"
    restored = LossScale(1.0, is_dynamic=True)
    restored.restore(scale.state())
    assert restored.state() == scale.state()


@pytest.mark.parametrize(
    ("stage", "sharding", "option", "overlaps"),
    [
        (1, 2, "enable_stage1_overlap", True),
        (1, 2, "enable_sharding_comm_overlap", True),
        (1, 2, "enable_stage2_overlap", False),
        (2, 2, "enable_sharding_comm_overlap", True),
        (1, 2, "enable_overlap", True),
        (3, 2, "enable_overlap", True),
        (0, 1, "enable_overlap", False),
        (2, 2, "enable_stage1_overlap", False),
        (3, 2, "enable_stage2_overlap", True),
        (3, 2, "enable_dp_comm_overlap", False),
        (0, 1, "enable_dp_comm_overlap", True),
        (0, 1, "enable_sharding_comm_overlap", False),
    ],
)
def test_which_option_overlaps_the_reduction(
    stage: int, sharding: int, option: str, overlaps: bool
) -> None:
    key = "pipeline_parallel_config" if "comm" in option else "sharding_parallel_config"
    training = arguments(sharding=f"stage{stage}" if stage else "", **{key: option})
    layout = replace(current(), degrees=replace(current().degrees, sharding=sharding))
    chosen = sharding_of(training, layout, "float32")
    assert (chosen.stage, chosen.overlaps_reduction) == (max(stage, 1), overlaps)


@pytest.mark.parametrize(("stage", "sharding"), [(0, 1), (1, 2), (2, 2), (3, 2)])
def test_an_accelerator_overlaps_unasked(
    monkeypatch: pytest.MonkeyPatch, stage: int, sharding: int
) -> None:
    monkeypatch.setattr(device, "kind", lambda: "gpu")
    training = arguments(sharding=f"stage{stage}" if stage else "")
    layout = replace(current(), degrees=replace(current().degrees, sharding=sharding))
    chosen = sharding_of(training, layout, "float32")
    assert chosen.overlaps_reduction
    assert chosen.overlaps_gathering == (sharding > 1)


def test_the_size_of_communication_buffers() -> None:
    model = nn.LayerList([nn.Linear(512, 512) for _ in range(4)])
    for layer in model:
        layer.prefix = ""
    whole = ShardedAdamW(model, arguments(), current(), tied_embedding=False)
    assert [bucket.kind.decays for bucket in whole.buckets] == [False, True]
    small = ShardedAdamW(
        model, arguments(sharding_comm_buffer_size_MB=1), current(), tied_embedding=False
    )
    assert [bucket.kind.decays for bucket in small.buckets].count(True) == 4, "1 MiB each"
