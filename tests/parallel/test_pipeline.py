"""Pipelines over real processes: equal to one process, and no more in memory than scheduled."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.launching import run_job

WORKER = Path(__file__).with_name("pipeline_worker.py")
CASES: dict[int, list[dict[str, Any]]] = {
    2: [
        {"chunks": 1, "layers": 3, "measured": True},
        {"chunks": 1, "layers": 3, "tied": True},
        {"chunks": 2, "layers": 5, "measured": True},
        {"chunks": 2, "layers": 6, "tied": True, "run_length": 2},
        {"chunks": 2, "layers": 6, "tied": True, "run_length": 2, "cpp": True},
    ],
    4: [{"chunks": 1, "layers": 6, "measured": True}, {"chunks": 2, "layers": 9, "tied": True}],
}
CHUNKS_OF_RANKS = {
    (2, 1, 3): [[0], [1, 2]],
    (2, 2, 5): [[0, 2], [1, 3, 4]],
    (2, 2, 6): [[0, 3], [1, 2, 4, 5]],
    (4, 1, 6): [[0], [1, 2], [3], [4, 5]],
    (4, 2, 9): [[0, 4], [1, 5], [2, 6], [3, 7, 8]],
}

Found = list[tuple[dict[str, Any], list[dict[str, Any]]]]
"""Of each case, what each rank found."""


@pytest.fixture(scope="module", params=[2, 4])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    ranks = request.param
    directory = tmp_path_factory.mktemp("pipeline")
    cases = directory / "cases.json"
    cases.write_text(json.dumps(CASES[ranks]))
    run_job(WORKER, directory, ranks, cases, processes=ranks, log_dir=directory / "log")
    results = [json.loads((directory / f"{rank}.json").read_text()) for rank in range(ranks)]
    return list(zip(CASES[ranks], zip(*results, strict=True), strict=True))


@pytest.mark.skipif(not find_spec("llm_pretrain_ops"), reason="not built: make ops")
def test_cpp_operators_serve_where_a_case_says_so(found: Found) -> None:
    for case, ranks in found:
        assert [rank["by C++"] for rank in ranks] == [case.get("cpp", False)] * len(ranks)


def test_layers_are_spread_over_all_chunks(found: Found) -> None:
    for case, ranks in found:
        expected = CHUNKS_OF_RANKS[len(ranks), case["chunks"], case["layers"]]
        assert [rank["layers"] for rank in ranks] == expected


def test_training_and_evaluation_equal_one_process(found: Found) -> None:
    for case, ranks in found:
        # The two ends of a tied table add their gradients in another order.
        tolerance = 1e-6 if case.get("tied") else 0
        for rank in ranks:
            for ours, alone, (evaluation, expected) in rank["steps"]:
                assert ours[0] == pytest.approx(alone[0], rel=tolerance)
                assert ours[1] == pytest.approx(alone[1], rel=1e-6)
                assert evaluation == pytest.approx(expected, rel=tolerance)
            # A gain of a norm is near 1: two units in its last place.
            assert rank["off"] <= 0.25 * tolerance


def test_memory_does_not_grow_with_micro_batches(found: Found) -> None:
    """1F1B holds no more than one micro-batch per rank, interleaving up to twice as many passes."""
    for case, ranks in found:
        for rank in ranks if case.get("measured") else []:
            one_round, two_rounds, four_rounds = rank["bytes"]
            assert four_rounds < 1.05 * two_rounds
            assert two_rounds < (1.05 if case["chunks"] == 1 else 1.35) * one_round
