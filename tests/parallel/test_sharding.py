"""Sharding stages 1, 2 and 3 give the weights of one process, whatever goes with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.launching import run_job

WORKER = Path(__file__).with_name("sharding_worker.py")
OVERLAP = {1: "enable_stage1_overlap", 2: "enable_stage2_overlap", 3: "enable_stage2_overlap"}
PLAIN = [{"stage": stage} for stage in OVERLAP]
OVERLAPPING = [{"stage": stage, "options": option} for stage, option in OVERLAP.items()]
ALLGATHER = "enable_stage1_allgather_overlap"
GATHERS = [(1, ""), (1, ALLGATHER), (3, "")]
TOPOLOGIES: dict[str, tuple[int, int, list[dict[str, Any]]]] = {
    "sd2": (
        2,
        2,
        [
            *PLAIN,
            *OVERLAPPING,
            *({"stage": 3, "recompute": what} for what in ("full", "full_attn", "core_attn")),
            {"stage": 2, "recompute": "full", "options": "enable_release_grads"},
            *(
                {"stage": stage, "options": option, "observe": "all_gather_into"}
                for stage, option in GATHERS
            ),
            {"stage": 1, "options": f"{ALLGATHER} {OVERLAP[1]}", "tied": True},
            *({"stage": stage, "tied": True} for stage in (2, 3)),
            *({"stage": stage, "dtype": "bfloat16"} for stage in (1, 2, 3)),
            {"stage": 3, "dtype": "bfloat16", "recompute": "full", "tied": True},
            *({"stage": stage, "cpp": True} for stage in (1, 2, 3)),
            {"stage": 3, "cpp": True, "recompute": "full", "tied": True},
            {"stage": 2, "cpp": True, "dtype": "bfloat16", "recompute": "core_attn"},
        ],
    ),
    "dp2sd2": (4, 2, [*PLAIN, *OVERLAPPING]),
    "dp2": (
        2,
        1,
        [
            {"stage": 1, "pipeline_options": option, "observe": "start_all_reduce"}
            for option in ("", "enable_dp_comm_overlap")
        ],
    ),
}
CASES = [
    pytest.param(name, number, id=f"{name}-{case}")
    for name, (_, _, cases) in TOPOLOGIES.items()
    for number, case in enumerate(cases)
]
BUCKETS_OF_MATRICES = 5
"""At stages 2 and 3: the embedding, three blocks, the head. Vectors are one more at every stage."""
VECTORS = 7
"""Norms of three blocks and of the head, which stay whole at every stage."""
PASSES = 3

Found = dict[str, Any]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], list[Found]]:
    """What every rank of a topology found of one of its cases."""

    @cache
    def run(name: str) -> list[list[Found]]:
        processes, sharding, cases = TOPOLOGIES[name]
        directory = tmp_path_factory.mktemp(name)
        (directory / "cases.json").write_text(json.dumps(cases))
        run_job(
            WORKER,
            directory,
            sharding,
            directory / "cases.json",
            processes=processes,
            log_dir=directory / "log",
        )
        return [json.loads((directory / f"{rank}.json").read_text()) for rank in range(processes)]

    return lambda name, number: [rank[number] for rank in run(name)]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_weights_norms_and_loss_are_those_of_one_process(found, name: str, number: int) -> None:
    for rank in found(name, number):
        assert rank["moved"] > 1e-3, "the steps changed something"
        # A weight in bfloat16 may be rounded to the next: 2^-9 apart below 0.5.
        is_rounded = rank["case"].get("dtype") == "bfloat16"
        assert rank["difference"] <= (2**-9 if is_rounded else 1e-6)
        for value, alone in [*rank["norms"], rank["loss"]]:
            assert value == pytest.approx(alone, rel=1e-5 if is_rounded else 1e-6)


@pytest.mark.skipif(not find_spec("llm_pretrain_ops"), reason="not built: make ops")
@pytest.mark.parametrize(("name", "number"), CASES)
def test_cpp_operators_serve_where_a_case_says_so(found, name: str, number: int) -> None:
    for rank in found(name, number):
        assert rank["by C++"] == rank["case"].get("cpp", False)


@pytest.mark.parametrize(("name", "number"), CASES)
def test_what_one_stage_saves_another_loads(found, name: str, number: int) -> None:
    for rank in found(name, number):
        assert rank["restored"] == 0.0
        norm, expected = rank["norm after"]
        assert norm == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("name", "number"), CASES)
def test_matrices_are_present_at_stage_3_only_while_in_use(found, name: str, number: int) -> None:
    for rank in found(name, number):
        after_step, after_evaluation, after_reading = rank["present"]
        assert after_step == after_evaluation == after_reading
        assert (after_step == VECTORS) == (rank["case"]["stage"] == 3)


def events_of(found, name: str, case: dict[str, Any]) -> list[str]:
    return found(name, TOPOLOGIES[name][2].index(case))[0]["events"]


@pytest.mark.parametrize(
    ("name", "plain", "overlapping"),
    [
        ("sd2", PLAIN[0], OVERLAPPING[0]),
        ("dp2sd2", PLAIN[0], OVERLAPPING[0]),
        ("dp2", *TOPOLOGIES["dp2"][2]),
    ],
)
def test_sums_of_whole_gradients_overlap_with_the_last_backward_pass(
    found, name: str, plain: dict[str, Any], overlapping: dict[str, Any]
) -> None:
    passes = ["backward"] * PASSES
    step = ["step", "start", "wait", "start", "wait"]
    assert events_of(found, name, plain) == [*passes, *step]
    overlapped = [*passes, "start", "start", "step", "wait", "wait"]
    assert events_of(found, name, overlapping) == overlapped


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("name", ["sd2", "dp2sd2"])
def test_sums_of_sharded_gradients_go_on_beside_the_backward_pass(
    found, name: str, stage: int
) -> None:
    at_once = ["start", "wait"] * BUCKETS_OF_MATRICES
    plain = events_of(found, name, PLAIN[stage - 1])
    assert plain == [*(["backward", *at_once] * PASSES), "step", "start", "wait"]
    overlapping = events_of(found, name, OVERLAPPING[stage - 1])
    assert sorted(overlapping) == sorted(plain), "as many sums as without overlap"
    assert overlapping[:3] == ["backward", "start", "start"]
    running = [
        overlapping[:count].count("start") - overlapping[:count].count("wait")
        for count in range(len(overlapping))
    ]
    assert max(running) == 4, "no more than two, the one that is added, and the vectors'"
    assert overlapping.index("step") > len(overlapping) - 1 - overlapping[::-1].index("start")


def gathers_of(found, stage: int, option: str) -> list[str]:
    return events_of(
        found, "sd2", {"stage": stage, "options": option, "observe": "all_gather_into"}
    )


def test_updated_weights_are_awaited_in_the_next_step_if_that_overlaps(found) -> None:
    plain, overlapping = (gathers_of(found, 1, option) for option in ("", ALLGATHER))
    assert plain[0] == "unit"
    assert plain[-4:] == ["start", "wait"] * 2
    assert overlapping[:4] == ["wait", "unit", "wait", "unit"], "matrices, norms: at first use"
    assert overlapping[-3:] == ["step", "start", "start"]


def test_weights_of_the_next_unit_are_on_their_way_while_one_is_computed(found) -> None:
    events = gathers_of(found, 3, "")
    units = BUCKETS_OF_MATRICES
    forward = ["start", *["wait", "start", "unit"] * (units - 1), "wait", "unit"]
    assert events[: len(forward)] == forward
    assert events.index("step") == len(events) - 3, "the step gathers vectors only"
    assert events.count("start") - 1 == 2 * units * PASSES, "each once forward, once backward"
