"""What each rank of a pipeline does, in order: lists of instructions, made before anything runs.

A rank holds one or several chunks of the model's layers. Chunk c of rank r is part c * ranks + r of
the model, so that with several chunks every micro-batch passes the ranks several times, each pass
is shorter, and the ranks wait less at the beginning and the end of a step.

Training is one forward, one backward, with one chunk or interleaved over several (Narayanan et al.,
arXiv:2104.04473, section 2.2). A rank first runs some micro-batches forward, its warm-up, then
alternates, then drains. It therefore never holds the activations of more passes than those of the
warm-up and one.

Sends do not block. A rank can thus wait only for an input or a gradient that another has yet to
compute, never for one that waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Step = Literal[
    "receive_input", "forward", "send_output", "receive_gradient", "backward", "send_gradient"
]
Pass = tuple[int, int]
"""(chunk, micro-batch): the way of a micro-batch through a chunk."""


@dataclass(frozen=True)
class Instruction:
    step: Step
    chunk: int
    micro_batch: int


@dataclass(frozen=True)
class Place:
    """A rank's place in a pipeline of `ranks` with `chunks` each."""

    rank: int
    ranks: int
    chunks: int = 1

    def is_first(self, chunk: int) -> bool:
        """Whether the model begins with this chunk."""
        return self.rank == 0 and chunk == 0

    def is_last(self, chunk: int) -> bool:
        """Whether the model ends with this chunk."""
        return self.rank == self.ranks - 1 and chunk == self.chunks - 1


def training_schedule(place: Place, micro_batches: int) -> list[Instruction]:
    """What a rank does to run `micro_batches` forward and backward.

    With several chunks `micro_batches` must be a multiple of the ranks.
    """
    assert place.chunks == 1 or micro_batches % place.ranks == 0
    forwards = list(_forward_order(place, micro_batches))
    backwards = [(place.chunks - 1 - chunk, micro_batch) for chunk, micro_batch in forwards]
    warm_up = warm_up_passes(place)
    schedule: list[Instruction] = []
    for number in range(len(forwards) + warm_up):
        if number < len(forwards):
            schedule += _forward(place, *forwards[number])
        if 0 <= number - warm_up < len(backwards):
            schedule += _backward(place, *backwards[number - warm_up])
    return schedule


def evaluation_schedule(place: Place, micro_batches: int) -> list[Instruction]:
    """What a rank does to run any number of `micro_batches` forward only."""
    return [
        instruction
        for one in _forward_order(place, micro_batches)
        for instruction in _forward(place, *one)
    ]


def warm_up_passes(place: Place) -> int:
    """How many passes go forward before the first goes backward."""
    ranks_after = place.ranks - 1 - place.rank
    if place.chunks == 1:
        return ranks_after
    return (place.chunks - 1) * place.ranks + 2 * ranks_after


def _forward_order(place: Place, micro_batches: int) -> Iterator[Pass]:
    """As many micro-batches as ranks pass one chunk, then the next, and so on; then more follow."""
    for begin in range(0, micro_batches, place.ranks):
        for chunk in range(place.chunks):
            for micro_batch in range(begin, min(begin + place.ranks, micro_batches)):
                yield chunk, micro_batch


def _forward(place: Place, chunk: int, micro_batch: int) -> Iterator[Instruction]:
    if not place.is_first(chunk):
        yield Instruction("receive_input", chunk, micro_batch)
    yield Instruction("forward", chunk, micro_batch)
    if not place.is_last(chunk):
        yield Instruction("send_output", chunk, micro_batch)


def _backward(place: Place, chunk: int, micro_batch: int) -> Iterator[Instruction]:
    if not place.is_last(chunk):
        yield Instruction("receive_gradient", chunk, micro_batch)
    yield Instruction("backward", chunk, micro_batch)
    if not place.is_first(chunk):
        yield Instruction("send_gradient", chunk, micro_batch)
