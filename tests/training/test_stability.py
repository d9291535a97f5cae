"""Spikes, numbers that are none, and what is done about them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pretrain.config import TrainingArguments
from llm_pretrain.monitor.metrics_log import read_metrics
from llm_pretrain.training.stability import Decision, Stability, Step, UnstableRunError, Window
from tests.launching import RUN_PRETRAIN, Job, logged, run_job
from tests.small_runs import small_config, write_config, write_data, write_model

WORKER = Path(__file__).with_name("unstable_rank.py")

values = st.floats(0.01, 1e4)
curves = st.lists(st.tuples(values, values), min_size=1, max_size=60)


def stability(**changes: Any) -> Stability:
    options = {"output_dir": "nowhere", "max_steps": 10_000, "diverged_steps": 0}
    return Stability(TrainingArguments(**{**options, "spike_window": 8, **changes}))


def take(judge: Stability, number: int, loss: float, norm: float = 1.0) -> Decision:
    return judge.decide(Step(number, loss, norm, (16 * number - 16, 16 * number - 1)))


def test_deviations_are_those_of_the_last_values() -> None:
    window = Window(4, 0.01)
    window.values.extend([100.0, 1.0, 2.0, 3.0, 6.0])
    assert window.mean() == 3.0
    assert window.deviations_above(10.0) == pytest.approx(7.0 / statistics.pstdev([1, 2, 3, 6]))


@given(st.lists(values, min_size=1, max_size=30), values)
def test_the_order_of_the_values_does_not_count(seen: list[float], value: float) -> None:
    one, other = Window(30, 0.01), Window(30, 0.01)
    one.values.extend(seen)
    other.values.extend(reversed(seen))
    assert one.mean() == other.mean()
    assert one.deviations_above(value) == other.deviations_above(value)


@given(curves, st.integers(0, 59), st.sampled_from(["warn", "skip_update"]))
@settings(max_examples=200)
def test_a_restored_state_decides_as_the_one_that_went_on(
    curve: list[tuple[float, float]], cut: int, policy: str
) -> None:
    whole, resumed = (stability(on_spike=policy, spike_threshold=2.0) for _ in range(2))
    for number, (loss, norm) in enumerate(curve, 1):
        if number == cut:
            resumed.restore(json.loads(json.dumps(whole.state())))
        expected = take(whole, number, loss, norm)
        if number >= cut > 0:
            assert take(resumed, number, loss, norm) == expected
    if 0 < cut <= len(curve):
        assert resumed.state() == whole.state()


@given(curves)
def test_a_spike_changes_no_window(curve: list[tuple[float, float]]) -> None:
    judge = stability()
    for number, (loss, norm) in enumerate(curve, 1):
        before = judge.state()
        kind = take(judge, number, loss, norm).kind
        after = judge.state()
        if kind == "spike" and after["losses"]:
            assert (after["losses"], after["norms"]) == (before["losses"], before["norms"])
        elif kind == "good":
            assert after["losses"][-1] == loss
            assert after["norms"][-1] == norm


@given(values, values, st.lists(st.tuples(st.floats(0.95, 1.05), st.floats(0.5, 1.5)), max_size=40))
def test_trifles_on_a_flat_curve_are_no_spikes(
    loss: float, norm: float, factors: list[tuple[float, float]]
) -> None:
    judge = stability()
    for number in range(1, 9):
        take(judge, number, loss, norm)
    for factor, other in factors:
        single = stability()
        single.restore(judge.state())
        assert take(single, 9, loss * factor, norm * other).kind == "good"


@pytest.mark.parametrize(
    ("loss", "norm", "kind"),
    [
        (2.2, 1.0, "spike"),
        (2.0, 2.0, "spike"),
        (1.0, 0.1, "good"),
        (math.nan, 1.0, "not_finite"),
        (2.0, math.inf, "not_finite"),
    ],
)
def test_the_verdict_of_a_step(loss: float, norm: float, kind: str) -> None:
    judge = stability(on_spike="skip_update", on_nan="skip_update")
    for number in range(1, 9):
        assert take(judge, number, 2.0).action == "apply"
    assert take(judge, 9, loss, norm).kind == kind


def test_half_a_window_gives_no_verdict() -> None:
    judge = stability()
    for number, loss in enumerate([1.0, 1.0, 1.0, 50.0], 1):
        assert take(judge, number, loss).kind == "good"


def test_spikes_that_stay_are_a_new_level() -> None:
    judge = stability(on_spike="skip_update")
    for number in range(1, 9):
        take(judge, number, 2.0)
    assert [take(judge, number, 3.0).action for number in range(9, 13)] == ["skip"] * 4
    assert [take(judge, number, 3.0).action for number in range(13, 30)] == ["apply"] * 17


def test_the_lines_fit_a_terminal() -> None:
    judge = stability(on_spike="skip_update", on_nan="warn")
    for number in range(123_401, 123_409):
        take(judge, number, 2.3456)
    spike = take(judge, 123_409, 9.1312)
    assert spike.text == (
        "Spike at step 123409: loss 9.131 is 289 deviations above 2.346; samples 1974528 to "
        "1974543."
    )
    none = take(judge, 123_410, math.nan, math.inf)
    assert none.text == (
        "Not finite at step 123410: loss nan, gradient norm inf; samples 1974544 to 1974559."
    )
    assert none.action == "skip", "a warning, but it can't be applied"


def test_a_loss_above_the_first_for_long_is_a_diverged_run() -> None:
    judge = stability(diverged_steps=5)
    losses = [4.0, 3.0, *[5.0] * 4, 3.9, math.nan, *[4.1] * 3]
    for number, loss in enumerate(losses, 1):
        judge.training.__dict__["on_nan"] = "skip_update"
        take(judge, number, loss)
    with pytest.raises(UnstableRunError, match="has diverged: 5 steps in a row") as caught:
        take(judge, 12, 4.1)
    assert caught.value.kind == "diverged"


def test_going_back_takes_up_the_state_of_the_checkpoint() -> None:
    judge = stability(on_spike="rewind", max_rewinds=2, skip_data_intervals=[[1, 2]])
    for number in range(3, 9):
        take(judge, number, 2.0)
    saved = json.loads(json.dumps(judge.state()))
    take(judge, 9, 2.01)
    assert take(judge, 10, 9.0).action == "rewind"
    judge.go_back(saved, 8, 10)
    assert judge.state() == saved | {"skip_data_intervals": [[9, 10]], "rewound_to": [8]}
    assert take(judge, 11, 9.0).action == "rewind"
    judge.go_back(judge.state(), 10, 11)
    assert judge.all_passed_over() == [[1, 2], [9, 11]]
    assert judge.spared() == {8, 10}
    with pytest.raises(UnstableRunError, match=r"gone back 2 times .* \[\[1, 2\], \[9, 12\]\]"):
        take(judge, 12, 9.0)


STEPS = 12
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {}),
    "sharding": (2, {"sharding": "stage3", "sharding_parallel_degree": 2}),
    "tensor": (2, {"tensor_parallel_degree": 2, "sequence_parallel": True}),
    "pipeline": (2, {"pipeline_parallel_degree": 2}),
    "data": (2, {}),
}
FLOAT16 = {"fp16": True, "scale_loss": 1024.0}
CASES: dict[str, tuple[dict[int, str], dict[str, Any]]] = {
    "clean": ({}, {}),
    "without 8": ({}, {"skip_data_intervals": [[8, 8]]}),
    "without 7 and 8": ({}, {"skip_data_intervals": [[7, 8]]}),
    **{
        f"{fault} {policy}": ({8: fault}, {"on_spike": policy, "on_nan": policy})
        for fault in ("gradient", "nan")
        for policy in ("warn", "skip_update", "rewind", "stop")
    },
    "loss warn": ({8: "loss"}, {}),
    "loss rewind": ({8: "loss"}, {"on_spike": "rewind", "save_total_limit": 1}),
    "loss skip_update resumed": ({8: "loss"}, {"resume_from_checkpoint": "nan skip_update/9"}),
    "nan rewind resumed": ({8: "nan"}, {"resume_from_checkpoint": "nan rewind/8"}),
    "nan rewind again": (
        {8: "nan"},
        {"on_nan": "rewind", "resume_from_checkpoint": "nan rewind/6"},
    ),
    "too many": (
        {8: "nan", 9: "gradient", 11: "nan"},
        {"on_spike": "rewind", "on_nan": "rewind", "max_rewinds": 2},
    ),
    "no checkpoint": ({2: "nan"}, {"on_nan": "rewind"}),
    "without 7 and 8, float16": ({}, {"skip_data_intervals": [[7, 8]], **FLOAT16}),
    "loss rewind, float16": ({8: "loss"}, {"on_spike": "rewind", **FLOAT16}),
}
Runs = Callable[[str], Path]


@pytest.fixture(
    scope="module",
    params=[
        name if name in ("one", "sharding") else pytest.param(name, marks=pytest.mark.slow)
        for name in LAYOUTS
    ],
)
def layout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The output directories of all cases, by name."""
    processes, options = LAYOUTS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    data = write_data(folder / "data")
    model = write_model(folder / "model", num_hidden_layers=2, intermediate_size=64)
    cases = []
    for name, (faults, changes) in CASES.items():
        changes = dict(changes)
        if "resume_from_checkpoint" in changes:
            of, step = changes["resume_from_checkpoint"].split("/")
            changes["resume_from_checkpoint"] = str(folder / of / f"checkpoint-{step}")
        settings = {
            "max_steps": STEPS,
            "max_seq_length": 16,
            "gradient_accumulation_steps": 2,
            "save_strategy": "steps",
            "save_steps": 3,
            "save_total_limit": 0,
            "spike_window": 8,
        }
        config = small_config(model, data, folder / name, **settings | options | changes)
        path = write_config(folder / f"{name}.json", config)
        cases.append({"config": str(path), "faults": faults})
    (folder / "cases").write_text(json.dumps(cases))
    console = run_job(
        WORKER,
        folder / "cases",
        processes=processes,
        log_dir=folder / "log",
        environment={"OMP_NUM_THREADS": "1"},
    )
    (folder / "console").write_text(console)
    return folder.joinpath


def curve(output: Path, after: int = 0) -> list[tuple[int, float, float]]:
    steps = [line for line in read_metrics(output) if line["kind"] == "step"]
    return [
        (line["global_step"], line["loss"], line["global_norm"])
        for line in steps
        if line["global_step"] > after
    ]


def events(output: Path) -> list[dict[str, Any]]:
    """What was told of the run's course."""
    told = [line for line in read_metrics(output) if line["kind"] == "event"]
    return [line for line in told if line["event"] in ("spike", "not_finite", "rewind")]


def checkpoints(output: Path) -> set[int]:
    return {int(path.name.split("-")[1]) for path in output.glob("checkpoint-*")}


def values_in(folder: Path) -> dict[str, bytes]:
    """The files of weights and of the optimizer's state."""
    files = [*folder.glob("*.safetensors"), *folder.glob("optimizer/*")]
    assert files
    return {path.name: path.read_bytes() for path in files}


def test_ranks_decide_alike(layout: Runs) -> None:
    for name in CASES:
        first, *others = sorted(layout(name).glob("decisions-*"))
        assert first.read_text()
        assert all(other.read_text() == first.read_text() for other in others), name


def test_sound_runs_are_left_alone(layout: Runs) -> None:
    assert not events(layout("clean"))
    assert len(curve(layout("clean"))) == STEPS


def test_a_warning_changes_nothing_where_the_gradient_is_finite(layout: Runs) -> None:
    spiked, clean = curve(layout("loss warn")), curve(layout("clean"))
    assert spiked[7][1] == pytest.approx(10 * clean[7][1])
    assert [*spiked[:7], *spiked[8:]] == [*clean[:7], *clean[8:]]
    updated, skipped = curve(layout("gradient warn"), 8), curve(layout("without 8"), 8)
    assert updated != skipped
    (event,) = events(layout("loss warn"))
    assert (event["event"], event["action"], event["global_step"]) == ("spike", "apply", 8)
    assert event["loss_deviations"] > 6 > event["norm_deviations"]
    assert event["first_sample"] == 7 * (event["last_sample"] + 1) / 8


@pytest.mark.parametrize("case", ["gradient skip_update", "nan skip_update", "nan warn"])
def test_a_skipped_update_is_as_if_the_data_had_been_passed_over(layout: Runs, case: str) -> None:
    output = layout(case)
    assert curve(output, 8) == curve(layout("without 8"), 8)
    assert len(curve(output, 8)) == STEPS - 8
    (event,) = events(output)
    assert "Its update is skipped, 1 so far." in event["message"]
    assert event["event"] == ("not_finite" if "nan" in case else "spike")
    last = logged(output)[-1]
    assert last["skipped_steps"] == 1
    assert last["consumed_samples"] == logged(layout("clean"))[-1]["consumed_samples"]
    assert math.isfinite(logged(output, "summary")[-1]["train_loss"])


@pytest.mark.parametrize("case", ["gradient rewind", "nan rewind", "loss rewind"])
def test_a_run_that_went_back_is_as_if_the_data_had_been_passed_over(
    layout: Runs, case: str
) -> None:
    output, told = layout(case), layout("without 7 and 8")
    assert curve(output) == curve(told)
    assert len(curve(output)) == STEPS - 2
    _, back = events(output)
    assert '"skip_data_intervals": [[7, 8]]' in back["message"]
    state = json.loads((output / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    assert state["stability"]["skip_data_intervals"] == [[7, 8]]
    assert state["stability"]["rewound_to"] == [6]
    assert logged(output, "summary")[-1]["went_back_to"] == "6"
    expected = {6, 12} if case == "loss rewind" else {3, 6, 8, 9, 12}
    assert checkpoints(output) == expected, "what it went back to is not removed"
    assert values_in(output / "checkpoint-6") == values_in(told / "checkpoint-6")
    assert values_in(output) == values_in(told), "the final model"


def test_going_back_takes_up_the_loss_scale_of_float16(layout: Runs) -> None:
    output, told = layout("loss rewind, float16"), layout("without 7 and 8, float16")
    assert curve(output) == curve(told)
    assert len(curve(output)) == STEPS - 2
    scales, expected = (
        json.loads((run / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())["loss_scale"]
        for run in (output, told)
    )
    assert scales == expected
    assert scales["steps_without_overflow"] == STEPS - 2


@pytest.mark.parametrize("fault", ["gradient", "nan"])
def test_a_run_that_stops_leaves_what_was_saved(layout: Runs, fault: str) -> None:
    output = layout(f"{fault} stop")
    error = (output / "error").read_text()
    assert 'resume with "skip_data_intervals": [[8, 8]]' in error
    assert checkpoints(output) == {3, 6}
    assert not [*output.glob("*.safetensors")]
    summary = logged(output, "summary")[-1]
    assert summary["ended_by"] == {"gradient": "spike", "nan": "not finite"}[fault]
    assert len(curve(output)) == 7


@pytest.mark.parametrize(
    ("resumed", "whole", "after"),
    [
        ("loss skip_update resumed", "nan skip_update", 9),
        ("nan rewind resumed", "nan rewind", 8),
        ("nan rewind again", "nan rewind", 6),
    ],
)
def test_a_resumed_run_goes_on_as_the_whole_one(
    layout: Runs, resumed: str, whole: str, after: int
) -> None:
    """Also one that was ended after it went back and before that was saved."""
    assert curve(layout(resumed)) == curve(layout(whole), after)
    assert len(curve(layout(resumed))) == STEPS - max(after, 8)
    states = [
        json.loads((layout(name) / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
        for name in (resumed, whole)
    ]
    assert states[0]["stability"] == states[1]["stability"]
    assert states[0]["progress"] == states[1]["progress"]


def test_a_run_goes_back_so_often_and_then_stops(layout: Runs) -> None:
    output = layout("too many")
    assert "the run has gone back 2 times before (max_rewinds)" in (output / "error").read_text()
    assert '"skip_data_intervals": [[7, 9], [11, 11]]' in (output / "error").read_text()
    back = [event for event in events(output) if event["event"] == "rewind"]
    assert [event["rewound_to"] for event in back] == [6, 8]
    assert [step for step, *_ in curve(output)] == [1, 2, 3, 4, 5, 6, 10]
    assert checkpoints(output) == {3, 6, 8, 9}


def test_without_a_checkpoint_the_update_is_skipped(layout: Runs) -> None:
    (event,) = events(layout("no checkpoint"))
    assert "There is no checkpoint to go back to. Its update is skipped" in event["message"]
    assert len(curve(layout("no checkpoint"))) == STEPS


def test_a_diverged_run_ends_with_an_error_and_without_a_model(tmp_path: Path) -> None:
    output = tmp_path / "out"
    config = small_config(
        write_model(tmp_path / "model"),
        write_data(tmp_path / "data"),
        output,
        gradient_accumulation_steps=2,
        max_steps=40,
        learning_rate=10.0,
        warmup_steps=100,
        diverged_steps=6,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
    )
    path = write_config(tmp_path / "config.json", config)
    environment = {"OMP_NUM_THREADS": "1"}
    with Job(RUN_PRETRAIN, path, log_dir=tmp_path / "log", environment=environment) as job:
        assert job.wait() == 1
    console = job.console.read_text()
    assert "Traceback" not in console
    losses = [line["loss"] for line in logged(output)]
    good = max(number for number, loss in enumerate(losses, 1) if loss <= losses[0])
    assert len(losses) == good + 5, "the sixth step ends the run"
    assert "error: The run has diverged: 6 steps in a row" in console
    assert f"resume from {output}/checkpoint-{good}" in console
    assert checkpoints(output) == {good, good + 5}
    assert logged(output, "summary")[-1]["ended_by"] == "diverged"
    assert not [*output.glob("*.safetensors")]
