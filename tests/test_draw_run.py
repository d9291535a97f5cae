"""The picture of a run, or of several: made from their logs, the same each time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llm_pretrain.monitor.metrics_log import MetricsLog
from tests.launching import ROOT


def draw(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "draw_run.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def write_run(directory: Path, *, last: float) -> Path:
    log = MetricsLog(directory)
    for step in range(1, 6):
        log.write("step", {"global_step": step, "loss": last + 5.0 - step})
    log.write("evaluation", {"global_step": 5, "eval_loss": last + 0.25})
    log.close()
    return directory


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", last=1.0)
    done = draw(run, tmp_path / "nowhere" / "a.svg")
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path}/nowhere/a.svg: No such file or directory\n"


@pytest.mark.parametrize("title", [["a title"], ["--title", "a title"]])
def test_the_picture_names_the_last_losses(tmp_path: Path, title: list[str]) -> None:
    write_run(tmp_path, last=1.0)
    pictures = []
    for name in ("one.svg", "two.svg"):
        done = draw(tmp_path, tmp_path / name, *title)
        assert done.returncode == 0, done.stderr
        pictures.append((tmp_path / name).read_text())
    assert pictures[0] == pictures[1]
    for text in ("<!-- training loss 1.00 -->", "evaluation loss 1.25", "a title"):
        assert text in pictures[0]


def test_several_runs_are_told_apart_by_what_differs_in_their_names(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name / "run", last=last)
        for name, last in (("low/rate", 1.0), ("high/rate", 2.0), ("base", 3.0))
    ]
    done = draw(*runs, tmp_path / "all.svg")
    assert done.returncode == 0, done.stderr
    picture = (tmp_path / "all.svg").read_text()
    for label in ("low/rate training loss 1.00", "high/rate evaluation loss 2.25", "base training"):
        assert f"<!-- {label}" in picture
    assert str(tmp_path) not in picture


def test_a_directory_without_losses_is_an_error(tmp_path: Path) -> None:
    write_run(tmp_path / "run", last=1.0)
    done = draw(tmp_path / "run", tmp_path / "none", tmp_path / "picture.svg")
    assert done.returncode == 1
    assert f"{tmp_path}/none is no folder of a run" in done.stderr
    (tmp_path / "none").mkdir()
    done = draw(tmp_path / "run", tmp_path / "none", tmp_path / "picture.svg")
    assert done.returncode == 1
    assert f"{tmp_path}/none/train_log.jsonl holds no losses" in done.stderr


def test_a_picture_that_was_forgotten_is_an_error(tmp_path: Path) -> None:
    done = draw(tmp_path / "one", tmp_path / "two")
    assert done.returncode == 2
    assert "a .svg or .png" in done.stderr
