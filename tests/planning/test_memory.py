"""Predicted memory is what Paddle's allocator counts while the same configuration trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_pretrain.planning.memory import fullest, last_step_begins, moments, steps_begin
from llm_pretrain.planning.trace import Allocation, Mark, Release, Trace
from tests.planning.cases import CASES, QUICK
from tests.planning.compare import compare


def test_what_is_predicted_is_measured(tmp_path: Path) -> None:
    rows = compare(tmp_path, QUICK)
    assert [row for row in rows if not row.is_close] == []


@pytest.mark.slow
def test_every_family_layout_and_recompute_is_measured(tmp_path: Path) -> None:
    rows = compare(tmp_path, [case for case in CASES if not case.is_quick])
    assert [row for row in rows if not row.is_close] == []


TRACE = Trace(
    [
        Allocation(1, 100, "weights"),
        Mark("forward", 0),
        Allocation(2, 30, "activations"),
        Mark("backward", 0),
        Allocation(3, 50, "gradients"),
        Release(2),
        Mark("update"),
        Allocation(4, 10, "optimizer"),
        Mark("forward", 0),
        Allocation(5, 5, "activations"),
    ]
)


def test_the_fullest_moment_is_told_by_part() -> None:
    memory = fullest(TRACE)
    assert memory.bytes == 180
    assert memory.parts == {"weights": 100, "activations": 30, "gradients": 50}
    assert memory.moment == Mark("backward", 0)


def test_each_mark_has_its_fullest_moment() -> None:
    found = [memory.bytes for memory in moments(TRACE, begin=steps_begin(TRACE))]
    assert found == [130, 180, 160, 165]


def test_the_last_step_begins_after_the_update_before_it() -> None:
    assert last_step_begins(TRACE) == 8
