"""Time of a step: the schedules of all stages of a pipeline, played against each other.

The instructions are those that the stages carry out (`parallel/pipeline/schedules.py`), so that the
bubble is what they leave, and no formula.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from llm_pretrain.parallel.pipeline.schedules import (
    Instruction,
    Place,
    training_schedule,
)
from llm_pretrain.planning.time import Seconds, Section, add


@dataclass
class StageTime:
    """Seconds of one stage's passes, by chunk, and of what it does once a step.

    Attributes:
        forward: by chunk, the passes of a micro-batch; the last of a chunk's list is that of the
            step's last micro-batch, and the one before it stands for all those in between.
        backward: likewise.
        once: what follows the last pass: the rest of the gradients' way, and the update.
    """

    forward: dict[int, list[Seconds]] = field(default_factory=lambda: defaultdict(list))
    backward: dict[int, list[Seconds]] = field(default_factory=lambda: defaultdict(list))
    once: Seconds = field(default_factory=lambda: defaultdict(float))

    def of(self, instruction: Instruction, micro_batches: int) -> Seconds:
        """Of a pass in a step of `micro_batches`, of which fewer may have been traced."""
        passes = getattr(self, instruction.step)[instruction.chunk]
        if instruction.micro_batch == micro_batches - 1:
            return passes[-1]
        return passes[min(instruction.micro_batch, max(len(passes) - 2, 0))]


def stage_time(sections: Sequence[Section]) -> StageTime:
    """The stage whose sections these are; of several steps, in the last."""
    updates = [number for number, each in enumerate(sections) if each.mark.phase == "update"]
    begin = updates[-2] + 1 if len(updates) > 1 else 0
    stage = StageTime()
    for section in sections[begin:]:
        phase, chunk = section.mark.phase, section.mark.chunk or 0
        if phase in ("forward", "backward"):
            passes: dict[int, list[Seconds]] = getattr(stage, phase)
            passes[chunk].append(section.seconds)
        else:
            add(stage.once, section.seconds)
    return stage


@dataclass
class StepTime:
    """Seconds of a step on the stage that works longest, by part.

    "bubble" is what it waits for others.
    """

    seconds: Seconds
    stage: int

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def step_time(
    stages: Sequence[StageTime], chunks: int, micro_batches: int, message_seconds: float
) -> StepTime:
    """A step of a pipeline; a message takes `message_seconds` from one stage to the next.

    The update begins with a norm over all ranks, so that none ends before the last has begun.
    """
    ends = ends_of(stages, chunks, micro_batches, message_seconds)
    busy = [
        _busy(stage, rank, len(stages), chunks, micro_batches) for rank, stage in enumerate(stages)
    ]
    total = max(ends) + max(sum(stage.once.values()) for stage in stages)
    rank = max(range(len(stages)), key=lambda number: sum(busy[number].values()))
    seconds = busy[rank]
    bubble = total - sum(seconds.values())
    # Of one stage there is none; what is there then is rounding.
    if len(stages) > 1:
        seconds["bubble"] += max(bubble, 0.0)
    return StepTime(seconds, rank)


def _busy(stage: StageTime, rank: int, ranks: int, chunks: int, micro_batches: int) -> Seconds:
    total: Seconds = defaultdict(float)
    for passes in (stage.forward, stage.backward):
        for seconds in passes.values():
            add(total, seconds[-1])
            for number in range(micro_batches - 1):
                if number >= len(seconds) - 2:
                    add(total, seconds[max(len(seconds) - 2, 0)], micro_batches - 1 - number)
                    break
                add(total, seconds[number])
    add(total, stage.once)
    return total


def ends_of(
    stages: Sequence[StageTime], chunks: int, micro_batches: int, message_seconds: float
) -> list[float]:
    """When each stage is through its schedule, in seconds from the step's begin.

    Of a long step only as many micro-batches are played as show how much each further round of
    them, one for each stage, adds.
    """
    ranks = len(stages)
    rounds = micro_batches // ranks
    if rounds <= _PLAYED_ROUNDS:
        return play(stages, chunks, micro_batches, message_seconds)
    left = micro_batches - rounds * ranks
    most = _PLAYED_ROUNDS * ranks + left
    earlier = play(stages, chunks, most - ranks, message_seconds)
    later = play(stages, chunks, most, message_seconds)
    return [
        end + (end - before) * (rounds - _PLAYED_ROUNDS)
        for before, end in zip(earlier, later, strict=True)
    ]


_PLAYED_ROUNDS = 5
"""By then each stage has passed its warm-up and at least a round of the steady state."""


def play(
    stages: Sequence[StageTime], chunks: int, micro_batches: int, message_seconds: float
) -> list[float]:
    """As `ends_of`, every instruction played."""
    ranks = len(stages)
    schedules = _schedules(ranks, chunks, micro_batches)
    costs = [
        [
            sum(stage.of(each, micro_batches).values()) if each.step in _WORK else 0.0
            for each in schedule
        ]
        for stage, schedule in zip(stages, schedules, strict=True)
    ]
    now = [0.0] * ranks
    done = [0] * ranks
    there: dict[tuple[str, int, int], float] = {}
    waiting = list(range(ranks))
    while waiting:
        for rank in waiting:
            schedule = schedules[rank]
            for number in range(done[rank], len(schedule)):
                each = schedule[number]
                step, part = each.step, each.chunk * ranks + rank
                if step in _WORK:
                    now[rank] += costs[rank][number]
                elif step in _SENT_TO:
                    name, further = _SENT_TO[step]
                    there[name, part + further, each.micro_batch] = now[rank] + message_seconds
                else:
                    arrival = there.get((step, part, each.micro_batch))
                    if arrival is None:
                        break
                    now[rank] = max(now[rank], arrival)
                done[rank] = number + 1
        waiting = [rank for rank in waiting if done[rank] < len(schedules[rank])]
    return now


_WORK = ("forward", "backward")
_SENT_TO = {"send_output": ("receive_input", 1), "send_gradient": ("receive_gradient", -1)}


@functools.lru_cache(maxsize=256)
def _schedules(ranks: int, chunks: int, micro_batches: int) -> list[list[Instruction]]:
    return [training_schedule(Place(rank, ranks, chunks), micro_batches) for rank in range(ranks)]
