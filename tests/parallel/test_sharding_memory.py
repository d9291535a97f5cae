"""Each sharding stage holds what theory says, measured by Paddle's allocator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.launching import run_job
from tests.parallel.sharding_memory_worker import BLOCKS

WORKER = Path(__file__).with_name("sharding_memory_worker.py")
PROCESSES = 4


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, float]]]:
    directory = tmp_path_factory.mktemp("memory")
    run_job(WORKER, directory, processes=PROCESSES, log_dir=directory / "log")
    return [json.loads((directory / f"{rank}.json").read_text()) for rank in range(PROCESSES)]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_between_micro_batches(found: list[dict[str, dict[str, float]]], stage: int) -> None:
    """In multiples of the float32 weights: weights, gradients, two moments; masters are weights."""
    weights = 1 / PROCESSES if stage == 3 else 1
    gradients = 1 / PROCESSES if stage >= 2 else 1
    moments = 2 / PROCESSES
    for rank in found:
        measured = rank[str(stage)]["between micro-batches"]
        assert measured == pytest.approx(weights + gradients + moments, rel=0.1)


def test_a_step_at_stage_3_holds_few_units_beside_the_shards(
    found: list[dict[str, dict[str, float]]],
) -> None:
    """The weights of two, the gradients of one, and one that is being summed or computed."""
    for rank in found:
        between, peak = rank["3"].values()
        assert peak - between < 4 / BLOCKS
