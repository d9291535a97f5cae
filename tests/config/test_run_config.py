"""The samples of steps whose batch grows, counted in one go and step by step."""

from __future__ import annotations

import pytest

from llm_pretrain.config import resolve_degrees
from llm_pretrain.config.run_config import (
    plan_batches,
    samples_by_length,
    samples_of_step,
    samples_of_steps,
)

RAMP = [[0, 4], [1000, 8], [2100, 16]]


@pytest.mark.parametrize("consumed", [0, 3, 32, 50, 65, 66, 100])
@pytest.mark.parametrize("steps", [0, 1, 5, 8, 40])
def test_steps_are_counted_as_they_come(load, consumed: int, steps: int) -> None:
    run = load(
        max_seq_length=32,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=8,
        batch_ramp=RAMP,
    )
    degrees = resolve_degrees(run.training, 1)
    at = consumed
    for _ in range(steps):
        # By tokens, which are whole samples of 32.
        expected = 4 if at * 32 < 1000 else 8 if at * 32 < 2100 else 16
        assert samples_of_step(run, degrees, at) == expected
        at += expected
    assert samples_of_steps(run, degrees, steps, consumed) == at - consumed


def test_samples_are_cut_as_the_steps_come_that_take_them(load) -> None:
    run = load(
        max_seq_length=32,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=8,
        batch_ramp=RAMP,
        length_ramp=[[0, 8], [900, 16], [2200, 32]],
    )
    found: dict[int, int] = {}
    at = 0
    degrees = resolve_degrees(run.training, 1)
    for _ in range(20):
        length = 8 if at * 32 < 900 else 16 if at * 32 < 2200 else 32
        samples = samples_of_step(run, degrees, at)
        found[length] = found.get(length, 0) + samples
        at += samples
    together: dict[int, int] = {}
    for length, samples in samples_by_length(run, degrees, 20):
        together[length] = together.get(length, 0) + samples
    assert together == found


def test_a_run_takes_the_samples_of_its_ramp(load) -> None:
    run = load(
        max_steps=10,
        max_seq_length=32,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        batch_ramp="[[0, 2], [128, 4]]",
    )
    plan = plan_batches(run, resolve_degrees(run.training, 1))
    assert (plan.samples_per_step, plan.train_samples) == (4, 2 * 2 + 8 * 4)
