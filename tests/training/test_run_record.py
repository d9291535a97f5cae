"""The commands that a run's summary names do what it says."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.config import load_run_config
from llm_pretrain.machine import launchers
from llm_pretrain.training.run_record import command_to_go_on, typed_command
from tests.small_runs import small_config, write_config


def to_go_on(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    *words: str,
    checkpoint: Path | None = None,
    max_steps: int | None = None,
    **values: Any,
) -> list[str]:
    output_dir = folder / "out"
    config = small_config(folder, folder, output_dir, **values)
    path = write_config(folder / "run.json", config)
    monkeypatch.setattr(launchers, "launcher_of_this_process", lambda: None)
    monkeypatch.setattr(sys, "orig_argv", ["python", "run_pretrain.py", "run.json", *words])
    run = load_run_config(path, words)
    command = command_to_go_on(run, checkpoint or output_dir / "checkpoint-4", max_steps)
    return shlex.split(command)[3:]


def test_nothing_is_added_where_nothing_is_in_the_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert to_go_on(monkeypatch, tmp_path, "--seed", "3") == ["--seed", "3"]
    longer = to_go_on(monkeypatch, tmp_path, "--max_steps=4", "--do_eval", max_steps=8)
    assert longer == ["--do_eval", "--max_steps", "8"]


@pytest.mark.parametrize(
    "words", [(), ("--overwrite_output_dir", "0"), ("--overwrite-output-dir",)]
)
def test_a_run_that_started_anew_is_resumed_however_often(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...]
) -> None:
    found = to_go_on(monkeypatch, tmp_path, *words, overwrite_output_dir=True)
    assert found == ["--overwrite_output_dir", "0"]


def test_a_checkpoint_of_another_folder_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other run" / "checkpoint-3"
    words = ("--resume_from_checkpoint", str(other))
    here = to_go_on(monkeypatch, tmp_path, *words)
    assert here == ["--resume_from_checkpoint", "true"]
    there = to_go_on(monkeypatch, tmp_path, *words, checkpoint=other)
    assert there == list(words)


def test_the_launchers_command_is_the_one_that_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["venv/bin/python", "-m", "paddle.distributed.launch", "run_pretrain.py", "a b.json"]
    launcher = launchers.Launcher(1, words)
    monkeypatch.setattr(launchers, "launcher_of_this_process", lambda: launcher)
    assert (
        typed_command() == "venv/bin/python -m paddle.distributed.launch run_pretrain.py 'a b.json'"
    )
    monkeypatch.setattr(launchers, "launcher_of_this_process", lambda: None)
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python", "venv/bin/llm-pretrain", "train"])
    assert typed_command() == "venv/bin/llm-pretrain train"
