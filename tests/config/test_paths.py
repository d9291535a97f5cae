"""`~` and variables in every path of a configuration, and in the CONFIG argument itself."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from llm_pretrain.config import describe_config, load_command_line
from llm_pretrain.config.argument_types import expanded, path_argument

PATHS = {
    "output_dir": "training",
    "logging_dir": "training",
    "resume_from_checkpoint": "training",
    "model_name_or_path": "model",
    "tokenizer_name_or_path": "model",
    "input_dir": "data",
    "data_cache": "data",
}


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/people/anna")
    monkeypatch.setenv("RUNS", "/runs")
    monkeypatch.delenv("NOWHERE", raising=False)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~", "/people/anna"),
        ("~/a", "/people/anna/a"),
        ("$RUNS/a", "/runs/a"),
        ("${RUNS}_a", "/runs_a"),
        ("a/$RUNS", "a//runs"),
        ("a~b", "a~b"),
        ("./~/a", "./~/a"),
        ("cost$5", "cost$5"),
        ("a$", "a$"),
    ],
)
def test_what_a_path_means(written: str, meant: str) -> None:
    assert expanded(written) == meant


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("$NOWHERE/a", "variable NOWHERE is not set"),
        ("${NOWHERE}", "variable NOWHERE is not set"),
        ("${RUNS:-x}", "is no variable"),
        ("${RUNS/a", "is no variable"),
        ("${}", "is no variable"),
        ("~no-such-user/a", "~no-such-user"),
    ],
)
def test_what_no_path_is(written: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expanded(written)
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        path_argument(written)


@pytest.mark.parametrize(("key", "part"), PATHS.items())
@pytest.mark.parametrize("in_file", [True, False])
def test_every_path_is_expanded(load, key: str, part: str, in_file: bool) -> None:
    written = "~/${RUNS}"
    run = load(**{key: written}) if in_file else load(f"--{key}", written)
    assert getattr(getattr(run, part), key) == "/people/anna//runs"
    (line,) = [line for line in describe_config(run, columns=200) if line.split()[0] == key]
    assert '"/people/anna//runs"' in line


@pytest.mark.parametrize("key", PATHS)
def test_an_unset_variable_names_key_and_variable(problems, key: str) -> None:
    (problem,) = problems(**{key: "$NOWHERE/a"})
    assert problem.startswith("run.json, line ")
    assert f": {key}: " in problem
    assert "NOWHERE is not set" in problem
    (problem,) = problems(f"--{key}=$NOWHERE/a")
    assert problem.startswith(f"command line: --{key}: ")


def test_each_path_of_a_blend_is_expanded(load) -> None:
    run = load(input_dir="0.7 ~/web  0.3 $RUNS/books")
    assert run.data.input_dir == "0.7 /people/anna/web  0.3 /runs/books"


def test_the_file_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNS", str(tmp_path))
    values = {"output_dir": "o", "input_dir": "d", "max_steps": 1, "do_train": True}
    (tmp_path / "run.json").write_text(json.dumps(values), encoding="utf-8")
    assert load_command_line(["$RUNS/run.json"]).training.max_steps == 1
    with pytest.raises(ValueError, match=r"command line: CONFIG: .*NOWHERE is not set"):
        load_command_line(["$NOWHERE/run.json"])
