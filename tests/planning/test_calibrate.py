"""A machine fitted to a log, on a program that is written down by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_pretrain.config import ConfigError, RunConfig
from llm_pretrain.planning.calibrate import Calibration, calibrated, logged_step_seconds
from llm_pretrain.planning.layouts import own_layout
from llm_pretrain.planning.machines import Machine, load_machine, read_machine
from llm_pretrain.planning.plan import Planner
from llm_pretrain.training.preflight import model_config_of
from tests.planning.analytic import AnalyticProgram
from tests.planning.test_search import run_of


@pytest.fixture
def run() -> RunConfig:
    return run_of()


@pytest.fixture
def machine() -> Machine:
    return load_machine("a100-80g")


def seconds_of_a_step(run: RunConfig, machine: Machine) -> float:
    layout, _ = own_layout(run, 4)
    planner = Planner(run, model_config_of(run), machine, AnalyticProgram())
    return planner.plan(layout).step.total


def write_log(path: Path, *seconds: float) -> str:
    lines = [json.dumps({"kind": "step", "step_seconds": each}) for each in seconds]
    path.write_text("\n".join([*lines, '{"kind": "evalu']))
    return str(path)


def fitted_to(run: RunConfig, machine: Machine, log: str) -> Calibration:
    layout, _ = own_layout(run, 4)
    return calibrated(run, model_config_of(run), machine, AnalyticProgram(), layout, log)


@pytest.mark.parametrize("times", [0.9, 1.5, 4.0])
def test_the_machine_then_takes_what_was_logged(
    tmp_path: Path, run: RunConfig, machine: Machine, times: float
) -> None:
    wanted = times * seconds_of_a_step(run, machine)
    log = write_log(tmp_path / "train_log.jsonl", 20.0 * wanted, wanted, wanted)
    found = fitted_to(run, machine, log)
    fitted = found.machine
    assert (fitted.sustained < machine.sustained) == (times > 1.0)
    assert seconds_of_a_step(run, fitted) == pytest.approx(wanted, rel=1e-3)
    assert f"{1.0 / times - 1.0:+.1%}" in found.lines()[1]
    told = found.as_json()
    assert read_machine(told["machine"], "", "").sustained == fitted.sustained
    assert told["predicted_step_seconds_now"] == pytest.approx(
        told["logged_step_seconds"], rel=1e-3
    )


def test_a_log_that_no_rate_explains_is_refused(
    tmp_path: Path, run: RunConfig, machine: Machine
) -> None:
    wanted = 1e-4 * seconds_of_a_step(run, machine)
    log = write_log(tmp_path / "train_log.jsonl", wanted, wanted, wanted)
    with pytest.raises(ConfigError, match="too little to explain it"):
        fitted_to(run, machine, log)


def test_the_first_interval_and_a_cut_line_do_not_count(tmp_path: Path) -> None:
    assert logged_step_seconds(write_log(tmp_path / "log", 9.0, 1.0, 3.0, 2.0)) == 2.0
    with pytest.raises(ConfigError, match="two logged steps or more"):
        logged_step_seconds(write_log(tmp_path / "log", 9.0))


FIRST = b'{"kind": "step", "step_seconds": 9.0}\n'


def log(folder: Path, content: bytes) -> str:
    (folder / "train_log.jsonl").write_bytes(content)
    return str(folder / "train_log.jsonl")


@pytest.mark.parametrize(
    "value", [b'"abc"', b"[1]", b"-3.0", b"0.0", b"NaN", b"Infinity", b"true", b'"\xff"']
)
def test_a_step_of_no_seconds_is_an_error(tmp_path: Path, value: bytes) -> None:
    line = b'{"kind": "step", "step_seconds": ' + value + b"}\n"
    with pytest.raises(ConfigError, match="a step of"):
        logged_step_seconds(log(tmp_path, FIRST + line))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"plain text\n", FIRST])
def test_too_few_steps_are_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match="two logged steps or more"):
        logged_step_seconds(log(tmp_path, content))


def test_a_log_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        logged_step_seconds(str(tmp_path / "none"))
