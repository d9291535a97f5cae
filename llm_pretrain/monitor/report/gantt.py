"""The schedule of a pipeline as a Gantt chart: when each stage computes, and when it waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llm_pretrain.parallel.pipeline.schedules import Instruction, Place, training_schedule

FORWARD, BACKWARD = 1.0, 2.0
"""The time of a pass: a backward one computes two gradients for each product of a forward one."""
MOST_PASSES = 4000
_ROW, _BAR = 10, 8


@dataclass(frozen=True)
class Pass:
    """What a stage computes from `begin` on, in units of a forward pass."""

    rank: int
    begin: float
    instruction: Instruction

    @property
    def length(self) -> float:
        return FORWARD if self.instruction.step == "forward" else BACKWARD


def timed(ranks: int, chunks: int, micro_batches: int) -> list[Pass]:
    """When each pass is computed if what is sent is there at once.

    Every stage carries out its own instructions in order, and waits where what it is to receive
    has not been sent.
    """
    waiting = [
        training_schedule(Place(rank, ranks, chunks), micro_batches) for rank in range(ranks)
    ]
    place = [0] * ranks
    clock = [0.0] * ranks
    sent: dict[tuple[str, int, int], float] = {}
    passes: list[Pass] = []
    moves = True
    while moves:
        moves = False
        for rank in range(ranks):
            while place[rank] < len(waiting[rank]):
                one = waiting[rank][place[rank]]
                part = one.chunk * ranks + rank
                if one.step in ("receive_input", "receive_gradient"):
                    what = "input" if one.step == "receive_input" else "gradient"
                    there = sent.get((what, part, one.micro_batch))
                    if there is None:
                        break
                    clock[rank] = max(clock[rank], there)
                elif one.step == "send_output":
                    sent["input", part + 1, one.micro_batch] = clock[rank]
                elif one.step == "send_gradient":
                    sent["gradient", part - 1, one.micro_batch] = clock[rank]
                else:
                    passes.append(Pass(rank, clock[rank], one))
                    clock[rank] += passes[-1].length
                place[rank] += 1
                moves = True
    assert place == [len(schedule) for schedule in waiting], "a stage waits for ever"
    return passes


def waiting_share(passes: Sequence[Pass], ranks: int) -> float:
    """Of the time of all stages, what they wait: the bubble."""
    whole = ranks * max(one.begin + one.length for one in passes)
    return 1 - sum(one.length for one in passes) / whole


def micro_batches_drawn(ranks: int, chunks: int, micro_batches: int) -> int:
    """As many as have room, in whole rounds of the stages; 0 where not one round has."""
    room = MOST_PASSES // (2 * ranks * chunks)
    return micro_batches if micro_batches <= room else room // ranks * ranks


def draw(passes: Sequence[Pass], ranks: int, title: str) -> str:
    """The passes as an SVG of one row for each stage; colours tell chunks and directions apart."""
    whole = max(one.begin + one.length for one in passes)
    paths: dict[str, list[str]] = {}
    for one in passes:
        x, width = 1000 * one.begin / whole, 1000 * one.length / whole
        kind = f"{one.instruction.step} chunk{one.instruction.chunk % 2}"
        gap = min(0.6, width / 8)
        paths.setdefault(kind, []).append(
            f"M{x:.1f} {one.rank * _ROW + 1}h{width - gap:.1f}v{_BAR}h-{width - gap:.1f}z"
        )
    body = "".join(f'<path class="{kind}" d="{"".join(d)}"/>' for kind, d in sorted(paths.items()))
    height = ranks * _ROW
    return (
        f'<svg class="gantt" viewBox="0 0 1000 {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{title}" style="height:{min(max(ranks * 1.6, 3), 26):.1f}rem">{body}</svg>'
    )
