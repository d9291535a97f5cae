"""Curves by every tracker's own library, over a resume; what each of them has is read back."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llm_pretrain.config.interval_arguments import REPORTERS
from llm_pretrain.monitor import trackers
from llm_pretrain.monitor.trackers.tracked_run import TrackedRun
from tests.launching import PATIENCE_SECONDS, ROOT, free_port

HARNESS = Path(__file__).with_name("tracked_run.py")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, trackers_python: Path) -> Path:
    """What every tracker has written of one run."""
    folder = tmp_path_factory.mktemp("tracked")
    run = subprocess.run(
        [trackers_python, HARNESS, folder],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "No curves" not in run.stdout
    assert "No more curves" not in run.stdout
    return folder


@pytest.mark.trackers
@pytest.mark.parametrize("name", trackers.PROGRAMS)
def test_a_resume_goes_on_with_the_same_run(name: str, folder: Path) -> None:
    (run,) = json.loads((folder / "found.json").read_text())[name]
    # Step 2 is done again after a resume; SwanLab and TensorBoard keep one or both.
    points = [tuple(point) for point in run["loss"]]
    assert sorted(set(points)) == [(1, 4.0), (2, 3.0), (3, 2.5)]
    assert run["learning_rate"] == 1e-3


@pytest.mark.trackers
@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium to look with")
@pytest.mark.parametrize(
    ("program", "page"),
    [
        ("tensorboard.main", "?pluginName=timeseries#timeseries"),
        ("visualdl.server.app", "app/scalar"),
    ],
    ids=["TensorBoard", "VisualDL"],
)
def test_a_browser_shows_the_curve(
    program: str, page: str, folder: Path, tmp_path: Path, trackers_python: Path
) -> None:
    port = free_port()
    words = [trackers_python, "-m", program, "--logdir", folder / "run" / "runs", "--port", port]
    server = subprocess.Popen([*map(str, words)], start_new_session=True)
    try:
        _wait_for(port)
        look = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu"]
        look += ["--window-size=1200,900", f"--screenshot={tmp_path / 'seen.png'}"]
        look += ["--virtual-time-budget=20000", f"http://localhost:{port}/{page}"]
        # A picture may be taken before the page has drawn.
        assert any(_shows_curve(look, tmp_path / "seen.png") for _ in range(10))
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _shows_curve(look: list[str], picture: Path) -> bool:
    subprocess.run(look, check=True)
    # The evaluation's loss is the same twice: a level line where both programs draw curves.
    seen = np.asarray(Image.open(picture).convert("RGB"))[200:, 100:900]
    return any(_has_level_line(seen, row) for row in range(len(seen)))


def _has_level_line(picture: np.ndarray, row: int, length: int = 60, thickness: int = 4) -> bool:
    """Whether a coloured line begins in this row that is long, and not a box."""
    for begin in range(0, picture.shape[1] - length, length // 4):
        piece = picture[row : row + thickness + 1, begin : begin + length].astype(int)
        colour = piece[0, 0]
        is_coloured = np.ptp(colour) > 20
        same = (abs(piece - colour).max(axis=2) < 10).all(axis=1)
        if is_coloured and same[0] and not same[-1]:
            return True
    return False


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 1):
            return
        time.sleep(0.1)
    raise AssertionError(f"nothing listens at port {port}")


@pytest.mark.parametrize(
    ("report_to", "expected"),
    [
        (None, ["visualdl"]),
        ("visualdl", ["visualdl"]),
        (("wandb", "visualdl"), ["visualdl", "wandb"]),
        ("mlflow, tensorboard", ["tensorboard", "mlflow"]),
        ("none", []),
        ((), []),
    ],
)
def test_chosen(report_to: Any, expected: list[str]) -> None:
    assert trackers.chosen(report_to) == expected


def test_all_are_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"visualdl", "mlflow"}
    monkeypatch.setattr(trackers, "_is_installed", installed.__contains__)
    assert trackers.chosen("all") == ["visualdl", "mlflow"]


def test_the_configuration_knows_every_tracker() -> None:
    assert {*trackers.PROGRAMS, "all", "none"} == {*REPORTERS}


def test_one_that_is_not_installed_says_how_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "_is_installed", lambda library: False)
    with pytest.raises(ImportError, match=r"wandb is not installed \(pip install wandb\)"):
        trackers.open_tracker("wandb", TrackedRun(tmp_path, None, is_anew=False))


def test_a_run_keeps_its_name_until_it_begins_anew(tmp_path: Path) -> None:
    first = TrackedRun(tmp_path, None, is_anew=False)
    first.remember("mlflow", "7")
    second = TrackedRun(tmp_path, None, is_anew=False)
    assert (second.id, second.directory) == (first.id, first.directory)
    assert second.is_resumed
    assert second.known_as("mlflow") == "7"
    anew = TrackedRun(tmp_path, None, is_anew=True)
    assert anew.id != first.id
    assert anew.known_as("mlflow") is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"id": 3, "directory": "x"}', '{"id": "x"}'])
def test_a_damaged_name_is_replaced(text: str, tmp_path: Path) -> None:
    (tmp_path / "tracked_run.json").write_text(text)
    run = TrackedRun(tmp_path, None, is_anew=False)
    assert not run.is_resumed
    assert json.loads((tmp_path / "tracked_run.json").read_text())["id"] == run.id
