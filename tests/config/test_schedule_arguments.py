"""The learning rate's formula, at its corners and against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from llm_pretrain.config import TrainingArguments
from llm_pretrain.config.schedule_arguments import learning_rate_at


def arguments(**changes) -> TrainingArguments:
    return TrainingArguments(
        **{
            "output_dir": "out",
            "max_steps": 100,
            "learning_rate": 1.0,
            "min_learning_rate": 0.1,
            "warmup_steps": 10,
            **changes,
        }
    )


def test_warm_up_rises_in_a_line_from_the_first_step() -> None:
    rates = [learning_rate_at(step, arguments()) for step in range(1, 11)]
    assert rates == pytest.approx([step / 10 for step in range(1, 11)])


def test_a_fractional_warm_up_ratio() -> None:
    changed = arguments(warmup_steps=0, warmup_ratio=0.025)
    assert learning_rate_at(1, changed) == pytest.approx(1 / 2.5)
    assert learning_rate_at(2, changed) == pytest.approx(2 / 2.5)
    assert learning_rate_at(3, changed) == pytest.approx(0.1 + 0.9 * (1 - 0.5 / 97.5))


def test_linear_decay() -> None:
    assert learning_rate_at(55, arguments()) == pytest.approx(0.1 + 0.9 * 0.5)
    assert learning_rate_at(100, arguments()) == pytest.approx(0.1)


def test_cosine_decay() -> None:
    changed = arguments(lr_scheduler_type="cosine")
    assert learning_rate_at(40, changed) == pytest.approx(
        0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 3))
    )
    assert learning_rate_at(100, changed) == pytest.approx(0.1)


def test_the_floor_is_kept_after_decay_steps() -> None:
    changed = arguments(decay_steps=50)
    assert learning_rate_at(50, changed) == pytest.approx(0.1)
    assert learning_rate_at(51, changed) == learning_rate_at(100, changed) == 0.1


def test_without_warm_up_the_first_step_has_begun_to_decay() -> None:
    changed = arguments(warmup_steps=0)
    assert learning_rate_at(1, changed) == pytest.approx(0.1 + 0.9 * 0.99)


def test_warmup_stable_decay_falls_in_the_last_share() -> None:
    changed = arguments(lr_scheduler_type="warmup_stable_decay", decay_ratio=0.2)
    assert learning_rate_at(11, changed) == learning_rate_at(80, changed) == 1.0
    assert learning_rate_at(90, changed) == pytest.approx(0.1 + 0.9 * 0.5)
    assert learning_rate_at(100, changed) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("shape", "left"),
    [("linear", 0.75), ("cosine", 0.5 + 0.25 * math.sqrt(2)), ("1-sqrt", 0.5)],
)
def test_shapes_of_the_decay_a_quarter_of_it_over(shape: str, left: float) -> None:
    changed = arguments(
        lr_scheduler_type="warmup_stable_decay", decay_type=shape, decay_from=60, decay_steps=80
    )
    assert learning_rate_at(60, changed) == 1.0
    assert learning_rate_at(65, changed) == pytest.approx(0.1 + 0.9 * left)
    assert learning_rate_at(80, changed) == learning_rate_at(100, changed) == pytest.approx(0.1)


def test_a_decay_from_a_checkpoint_leaves_the_steps_before_it_as_they_were() -> None:
    whole = arguments(lr_scheduler_type="warmup_stable_decay", max_steps=1000)
    branch = arguments(lr_scheduler_type="warmup_stable_decay", max_steps=66, decay_from=60)
    for step in range(1, 61):
        assert learning_rate_at(step, branch) == learning_rate_at(step, whole)
    assert learning_rate_at(61, branch) < 1.0


def test_cosine_with_restarts_begins_again_at_the_highest_rate() -> None:
    changed = arguments(lr_scheduler_type="cosine_with_restarts", num_cycles=2)
    assert learning_rate_at(54, changed) < 0.11
    assert learning_rate_at(55, changed) == 1.0
    assert learning_rate_at(100, changed) == pytest.approx(0.1)


def test_inverse_square_root_has_the_floor() -> None:
    changed = arguments(lr_scheduler_type="inverse_sqrt", max_steps=10**6)
    assert learning_rate_at(40, changed) == pytest.approx(0.5)
    assert learning_rate_at(10**4, changed) == 0.1


def test_constant_stays_after_the_warm_up() -> None:
    changed = arguments(lr_scheduler_type="constant")
    assert learning_rate_at(5, changed) == 0.5
    assert learning_rate_at(11, changed) == learning_rate_at(100, changed) == 1.0
