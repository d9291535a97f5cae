"""The picture of a run: made from its log, the same each time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from llm_pretrain.monitor.metrics_log import MetricsLog
from tests.launching import ROOT


def draw(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "draw_run.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_picture_names_the_last_losses(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in range(1, 6):
        log.write("step", {"global_step": step, "loss": 6.0 - step})
    log.write("evaluation", {"global_step": 5, "eval_loss": 1.25})
    log.close()
    pictures = []
    for name in ("one.svg", "two.svg"):
        done = draw(tmp_path, tmp_path / name, "a title")
        assert done.returncode == 0, done.stderr
        pictures.append((tmp_path / name).read_text())
    assert pictures[0] == pictures[1]
    for text in ("training loss 1.00", "evaluation loss 1.25", "a title"):
        assert text in pictures[0]


def test_a_directory_without_losses_is_an_error(tmp_path: Path) -> None:
    done = draw(tmp_path, tmp_path / "picture.svg")
    assert done.returncode == 1
    assert "holds no losses" in done.stderr
