"""Schedules: complete, in order, bounded in memory, and free of deadlock even where sends block."""

from __future__ import annotations

import pytest

from llm_pretrain.parallel.pipeline import Instruction, evaluation_schedule, training_schedule

SIZES = [(stages, count) for stages in (1, 2, 3, 4, 7) for count in (1, 2, 3, 8)]


def rounds_until_done(schedules: list[list[Instruction]]) -> int:
    """Run all stages where a message passes only when both sides are at it; rounds taken."""
    partner = {
        "send_output": (1, "receive_input"),
        "send_gradient": (-1, "receive_gradient"),
    }
    positions = [0] * len(schedules)

    def current(stage: int) -> Instruction | None:
        done = positions[stage] == len(schedules[stage])
        return None if done else schedules[stage][positions[stage]]

    rounds = 0
    while any(current(stage) for stage in range(len(schedules))):
        rounds += 1
        moved = False
        for stage in range(len(schedules)):
            instruction = current(stage)
            if instruction is None:
                continue
            if instruction.step in ("forward", "backward"):
                positions[stage] += 1
                moved = True
            elif instruction.step in partner:
                direction, answer = partner[instruction.step]
                if current(stage + direction) == Instruction(answer, instruction.micro_batch):
                    positions[stage] += 1
                    positions[stage + direction] += 1
                    moved = True
        assert moved, f"deadlock at {[current(stage) for stage in range(len(schedules))]}"
    return rounds


@pytest.mark.parametrize(("stages", "count"), SIZES)
def test_training_ends_without_deadlock(stages: int, count: int) -> None:
    schedules = [training_schedule(stage, stages, count) for stage in range(stages)]
    assert rounds_until_done(schedules) > 0


@pytest.mark.parametrize(("stages", "count"), SIZES)
def test_evaluation_ends_without_deadlock(stages: int, count: int) -> None:
    schedules = [evaluation_schedule(stage, stages, count) for stage in range(stages)]
    assert rounds_until_done(schedules) > 0
    assert all("backward" not in {i.step for i in schedule} for schedule in schedules)


@pytest.mark.parametrize(("stages", "count"), SIZES)
def test_every_micro_batch_runs_once_each_way_and_few_are_held(stages: int, count: int) -> None:
    for stage in range(stages):
        schedule = training_schedule(stage, stages, count)
        forward = [i.micro_batch for i in schedule if i.step == "forward"]
        backward = [i.micro_batch for i in schedule if i.step == "backward"]
        assert forward == backward == list(range(count))
        held = most = 0
        for instruction in schedule:
            held += {"forward": 1, "backward": -1}.get(instruction.step, 0)
            most = max(most, held)
        assert most == min(stages - stage, count), "one forward, one backward holds no more"
