"""Schedules: complete, free of deadlock, messages in one order, bounded in memory, short."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from fractions import Fraction

import pytest

from llm_pretrain.parallel.pipeline.schedules import (
    Instruction,
    Place,
    evaluation_schedule,
    training_schedule,
)

SIZES = [(ranks, 1, count) for ranks in (1, 2, 3, 4, 7) for count in (1, 2, 3, 8, 16)]
SIZES += [
    (ranks, chunks, ranks * rounds)
    for ranks in (2, 3, 4, 7)
    for chunks in (2, 3, 4)
    for rounds in (1, 2, 3, 5)
]
RAGGED = [(ranks, chunks, count) for ranks in (2, 4) for chunks in (2, 3) for count in (1, 3, 7)]
SECONDS = {"forward": 1, "backward": 2}

Make = Callable[[Place, int], list[Instruction]]


def schedules_of(make: Make, ranks: int, chunks: int, count: int) -> list[list[Instruction]]:
    return [make(Place(rank, ranks, chunks), count) for rank in range(ranks)]


class Run:
    """All ranks' schedules at once, where sends take no time and do not block.

    A receiver takes what was sent first on the channel. One forward and backward pass of all of a
    rank's chunks takes 3 s.
    """

    def __init__(self, schedules: list[list[Instruction]], chunks: int) -> None:
        self.schedules = schedules
        self.ranks = len(schedules)
        self.chunks = chunks
        self.clocks = [Fraction(0)] * self.ranks
        self.channels: dict[tuple[str, int, bool], deque[tuple[Fraction, Instruction]]] = {}
        self.computed: set[tuple[str, int, int]] = set()

    def to_the_end(self) -> Fraction:
        """When the last rank has ended."""
        left = [deque(schedule) for schedule in self.schedules]
        while any(left):
            moved = False
            for rank, instructions in enumerate(left):
                while instructions and self.execute(rank, instructions[0]):
                    instructions.popleft()
                    moved = True
            assert moved, f"deadlock: {[instructions[0] for instructions in left if instructions]}"
        assert not any(self.channels.values()), "a message that nobody receives"
        return max(self.clocks)

    def execute(self, rank: int, instruction: Instruction) -> bool:
        """False where the message is not there yet."""
        part = instruction.chunk * self.ranks + rank
        if instruction.step in SECONDS:
            assert (instruction.step, part, instruction.micro_batch) not in self.computed
            if instruction.step == "backward":
                assert ("forward", part, instruction.micro_batch) in self.computed
            self.computed.add((instruction.step, part, instruction.micro_batch))
            self.clocks[rank] += Fraction(SECONDS[instruction.step], self.chunks)
            return True
        onwards = -1 if instruction.step.endswith("gradient") else 1
        kind = "gradient" if onwards < 0 else "input"
        if instruction.step.startswith("send"):
            channel = self.channel(kind, rank, onwards)
            channel.append((self.clocks[rank], instruction))
            return True
        sender = (rank - onwards) % self.ranks
        channel = self.channel(kind, sender, onwards)
        if not channel:
            return False
        sent, message = channel.popleft()
        assert message.chunk * self.ranks + sender == part - onwards
        assert message.micro_batch == instruction.micro_batch
        self.clocks[rank] = max(self.clocks[rank], sent)
        return True

    def channel(self, kind: str, sender: int, onwards: int) -> deque[tuple[Fraction, Instruction]]:
        is_wrapped = not 0 <= sender + onwards < self.ranks
        return self.channels.setdefault((kind, sender, is_wrapped), deque())


@pytest.mark.parametrize(("ranks", "chunks", "count"), SIZES)
def test_training_ends_as_soon_as_the_paper_says(ranks: int, chunks: int, count: int) -> None:
    schedules = schedules_of(training_schedule, ranks, chunks, count)
    one = sum(SECONDS.values())
    idle = Fraction((ranks - 1) * one, chunks)
    assert Run(schedules, chunks).to_the_end() == count * one + idle


@pytest.mark.parametrize(("ranks", "chunks", "count"), SIZES + RAGGED)
def test_evaluation_runs_every_micro_batch_forward(ranks: int, chunks: int, count: int) -> None:
    schedules = schedules_of(evaluation_schedule, ranks, chunks, count)
    Run(schedules, chunks).to_the_end()
    for schedule in schedules:
        passes = [(i.chunk, i.micro_batch) for i in schedule if i.step == "forward"]
        assert sorted(passes) == [(c, m) for c in range(chunks) for m in range(count)]
        assert {i.step for i in schedule} <= {"receive_input", "forward", "send_output"}


@pytest.mark.parametrize(("ranks", "chunks", "count"), SIZES)
def test_training_runs_every_pass_and_holds_few(ranks: int, chunks: int, count: int) -> None:
    for rank, schedule in enumerate(schedules_of(training_schedule, ranks, chunks, count)):
        for step in ("forward", "backward"):
            passes = [(i.chunk, i.micro_batch) for i in schedule if i.step == step]
            assert sorted(passes) == [(c, m) for c in range(chunks) for m in range(count)]
        held = most = 0
        for instruction in schedule:
            held += {"forward": 1, "backward": -1}.get(instruction.step, 0)
            most = max(most, held)
        after = ranks - 1 - rank
        warm_up = after if chunks == 1 else (chunks - 1) * ranks + 2 * after
        assert most == min(warm_up + 1, chunks * count)
