"""Every second of a run is in one share, over all its starts, whatever ends them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_pretrain.training.goodput import SHARES, Goodput, in_words, process_age
from tests.launching import RUN_PRETRAIN, Job, logged, run_job
from tests.small_runs import small_config, write_config, write_data, write_model


class Clock:
    """Time that passes when it is told to; the wall clock may be set besides."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall = 1.8e9

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds

    def account(self, record: dict[str, Any] | None = None, age: float = 0.0) -> Goodput:
        return Goodput(record, age=age, clock=lambda: self.now, wall_clock=lambda: self.wall)

    def record(self, goodput: Goodput) -> dict[str, Any]:
        """As it comes back from the file."""
        return dict(json.loads(json.dumps({"time": self.wall, **goodput.record()})))

    def step(self, goodput: Goodput, number: int, seconds: float, wait: float = 0.0) -> None:
        self.sleep(seconds)
        goodput.step(number, seconds, wait)


def test_one_start() -> None:
    clock = Clock()
    goodput = clock.account(age=5.0)
    clock.sleep(3.0)
    assert goodput.seconds()["start"] == 8.0, "before its first step a run is starting"
    clock.step(goodput, 1, 2.0, wait=0.5)
    with goodput.spending("saving"):
        clock.sleep(1.0)
        with goodput.spending("evaluation"):
            clock.sleep(4.0)
    clock.step(goodput, 2, 2.0)
    clock.sleep(0.25)
    assert goodput.seconds() == {
        "training": 3.5,
        "start": 8.0,
        "saving": 1.0,
        "evaluation": 4.0,
        "data": 0.5,
        "repeated": 0.0,
        "down": 0.0,
        "other": 0.25,
    }
    assert goodput.share() == 3.5 / 17.25


def test_what_a_step_waits_for_is_not_counted_twice() -> None:
    clock = Clock()
    goodput = clock.account()
    clock.step(goodput, 1, 1.0)
    clock.sleep(0.25)
    clock.step(goodput, 2, 1.0)
    clock.sleep(1.0)
    with goodput.spending("saving"):
        clock.sleep(3.0)
    goodput.step(3, 4.0, 0.0)
    seconds = goodput.seconds()
    assert seconds["saving"] == 3.0
    assert seconds["training"] == 3.0
    assert seconds["other"] == 0.25


def test_steps_that_are_taken_again_and_time_between_starts() -> None:
    clock = Clock()
    first = clock.account()
    for number in (1, 2, 3):
        clock.step(first, number, 1.0)
    record = clock.record(first)
    clock.step(first, 4, 1.0)
    # Killed here: the fourth step is in no record.
    clock.sleep(10.0)
    second = clock.account(record, age=2.0)
    for number in (2, 3, 4, 5):
        clock.step(second, number, 1.0)
    # Gone back within the run.
    clock.step(second, 5, 1.0)
    seconds = second.seconds()
    assert seconds["training"] == 5.0
    assert seconds["repeated"] == 3.0
    assert seconds["start"] == 2.0
    assert seconds["down"] == pytest.approx(9.0)
    assert sum(seconds.values()) == pytest.approx(19.0)
    third = clock.account(clock.record(second))
    assert third.highest_step == 5
    assert third.seconds() == pytest.approx(seconds)


def test_a_process_that_goes_on_within_itself_or_waited_as_a_spare() -> None:
    clock = Clock()
    first = clock.account(age=5.0)
    clock.step(first, 1, 1.0)
    record = clock.record(first)
    clock.sleep(2.0)
    second = clock.account(record, age=8.0)
    assert second.seconds()["start"] == pytest.approx(5.0 + 2.0)
    assert second.seconds()["down"] == 0.0
    assert sum(second.seconds().values()) == pytest.approx(8.0)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["saving", "evaluation", "sleep"]), st.floats(0, 1e4)),
            st.tuples(st.just("step"), st.floats(0, 1e4)),
            st.tuples(st.just("restart"), st.floats(0, 1e4)),
            st.tuples(st.just("jump"), st.floats(-1e6, 1e6)),
        ),
        max_size=30,
    )
)
def test_the_shares_are_the_wall_time_and_none_is_negative(
    happenings: list[tuple[str, float]],
) -> None:
    clock = Clock()
    began, jumps = clock.now, False
    goodput, number = clock.account(), 0
    for kind, seconds in happenings:
        if kind == "step":
            number += 1
            clock.step(goodput, number, seconds, wait=seconds / 3)
        elif kind == "sleep":
            clock.sleep(seconds)
        elif kind == "restart":
            record = clock.record(goodput)
            clock.sleep(seconds)
            goodput, number = clock.account(record, age=seconds / 2), number // 2
        elif kind == "jump":
            clock.wall, jumps = clock.wall + seconds, True
        else:
            with goodput.spending(kind):
                clock.sleep(seconds)
    shares = goodput.seconds()
    assert list(shares) == list(SHARES)
    assert all(value >= 0 for value in shares.values())
    assert 0 <= goodput.share() <= 1
    if not jumps:
        assert sum(shares.values()) == pytest.approx(clock.now - began, abs=1e-3)


@pytest.mark.parametrize(
    "damage",
    [
        {"seconds": None},
        {"seconds": {"training": -1}},
        {"seconds": {"training": math.nan}},
        {"seconds": {"training": "much"}},
        {"highest_step": 1e999},
        {"highest_step": []},
        {"time": "yesterday"},
    ],
)
def test_a_damaged_record_counts_as_none(damage: dict[str, Any]) -> None:
    clock = Clock()
    goodput = clock.account()
    clock.step(goodput, 1, 1.0)
    assert clock.account(clock.record(goodput) | damage).seconds() == dict.fromkeys(SHARES, 0.0)


def test_the_line_has_the_largest_losses_first_and_fits() -> None:
    seconds = dict.fromkeys(SHARES, 0.0)
    assert in_words(seconds) == "0.0%"
    seconds |= {"training": 968.0, "saving": 12.0, "start": 19.8, "data": 0.2}
    assert in_words(seconds) == "96.8%: start 2.0%, saving 1.2%"
    seconds = dict.fromkeys(SHARES, 100.0)
    assert len(in_words(seconds)) <= 49


def test_the_age_of_a_process_is_counted_from_its_start() -> None:
    code = (
        "import time; began = time.time(); time.sleep(0.5)\n"
        "from llm_pretrain.training.goodput import process_age\n"
        "print(process_age() - (time.time() - began))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert 0 <= float(result.stdout) < 5
    assert process_age() > 0


def test_a_run_that_is_killed_and_resumed(tmp_path: Path) -> None:
    """The shares of both starts and of the time between are what a stopwatch shows."""
    output = tmp_path / "out"
    contents = small_config(
        write_model(tmp_path / "model"),
        write_data(tmp_path / "data"),
        output,
        max_steps=1000,
        save_strategy="steps",
        save_steps=2,
        gradient_accumulation_steps=1,
        alert_command=f"tee -a {tmp_path / 'events'}",
    )
    config = write_config(tmp_path / "config.json", contents)
    began = time.time()
    with Job(RUN_PRETRAIN, config, log_dir=tmp_path / "log") as job:
        deadline = time.monotonic() + 300
        while not (output / "checkpoint-4").is_dir():
            assert job.process.poll() is None, job.output()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        job.process.kill()
        job.process.wait()
    time.sleep(2.0)
    console = run_job(RUN_PRETRAIN, config, "--max_steps", 12, log_dir=tmp_path / "log2")
    record = json.loads((output / "run.json").read_text())["goodput"]
    seconds = record["seconds"]
    assert record["wall_seconds"] == pytest.approx(sum(seconds.values()))
    assert record["share"] == pytest.approx(seconds["training"] / record["wall_seconds"])
    (summary,) = logged(output, "summary")
    assert record["wall_seconds"] == pytest.approx(summary["time"] - began, abs=1.5)
    assert seconds["down"] >= 2.0
    assert seconds["start"] > 0.5, "Paddle's import, twice"
    assert seconds["saving"] > 0
    assert summary["goodput"] == pytest.approx(record["share"], abs=0.02)
    shares = [line["goodput"] for line in logged(output)]
    assert all(0 <= share <= 1 for share in shares)
    (line,) = (line for line in console.splitlines() if line.startswith("goodput "))
    assert len(line) <= 80
    assert "%: " in line
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert [event["event"] for event in events] == ["restart", "end"]
    resumed = int(events[0]["global_step"])
    assert resumed >= 4
    assert events[0]["message"] == f"The run goes on from step {resumed} of 12."
    assert events[1]["message"] == "The run is done at step 12 of 12."
