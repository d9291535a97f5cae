"""The Gantt chart keeps the schedule's order, and waits as much as the literature says."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from llm_pretrain.monitor.report import gantt


@pytest.mark.parametrize(
    ("ranks", "chunks", "micro_batches"), [(1, 1, 3), (2, 1, 2), (4, 1, 8), (4, 2, 8), (3, 3, 6)]
)
def test_stages_wait_what_is_known_of_the_schedule(
    ranks: int, chunks: int, micro_batches: int
) -> None:
    passes = gantt.timed(ranks, chunks, micro_batches)
    assert len(passes) == 2 * ranks * chunks * micro_batches
    # arXiv:2104.04473, sections 2.2.1 and 2.2.2: the bubble is (p - 1) / (v m) of the ideal time.
    bubble = (ranks - 1) / (chunks * micro_batches)
    assert gantt.waiting_share(passes, ranks) == pytest.approx(bubble / (1 + bubble))


def test_no_stage_does_two_things_at_once_and_none_before_its_input() -> None:
    passes = gantt.timed(4, 2, 8)
    for rank in range(4):
        own = sorted((one for one in passes if one.rank == rank), key=lambda one: one.begin)
        assert all(one.begin + one.length <= after.begin for one, after in pairwise(own))
    forward = {
        (one.instruction.chunk * 4 + one.rank, one.instruction.micro_batch): one.begin
        for one in passes
        if one.instruction.step == "forward"
    }
    for (part, micro_batch), begin in forward.items():
        if part:
            assert begin >= forward[part - 1, micro_batch] + gantt.FORWARD


def test_the_picture_has_every_pass() -> None:
    passes = gantt.timed(4, 2, 8)
    assert len(re.findall(r"M[\d.]+ ", gantt.draw(passes, 4, "a title"))) == len(passes)


def test_a_long_schedule_is_cut_to_whole_rounds() -> None:
    assert gantt.micro_batches_drawn(4, 2, 8) == 8
    drawn = gantt.micro_batches_drawn(8, 4, 4096)
    assert 0 < drawn < 4096
    assert drawn % 8 == 0
    assert gantt.micro_batches_drawn(64, 4, 512) == 0
