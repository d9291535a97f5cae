from __future__ import annotations

from pathlib import Path

import pytest

from llm_pretrain.monitor import metrics_log, trackers
from llm_pretrain.monitor.metrics_log import read_metrics
from llm_pretrain.monitor.reporter import Reporter
from llm_pretrain.monitor.trackers.visualdl_tracker import VisualDLTracker


def report(reporter: Reporter) -> None:
    for step in (1, 2, 3):
        reporter.step({"global_step": step, "loss": 4.0 - step, "learning_rate": 1e-3, "mfu": None})
    reporter.evaluation({"global_step": 3, "eval_loss": 1.5})
    reporter.summary({"global_step": 3, "train_runtime": 75.0, "eval_loss": 1.5})
    reporter.close()


def curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    from visualdl import LogReader

    (file,) = directory.iterdir()
    reader = LogReader(file_path=str(file))
    return {
        tag: [(point.id, point.value) for point in reader.get_data("scalar", tag)]
        for tag in reader.get_tags()["scalar"]
    }


def test_all_three_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(Reporter(tmp_path, tmp_path / "runs", "visualdl", max_steps=3))
    printed = capsys.readouterr().out
    assert "global_step: 3, " in printed
    assert "train_runtime  1:15" in printed
    assert "3.000 █▅▁ 1.000" in printed
    kinds = [line["kind"] for line in read_metrics(tmp_path)]
    assert kinds == ["step", "step", "step", "evaluation", "summary"]
    written = curves(tmp_path / "runs")
    assert written["train/loss"] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert written["eval/loss"] == [(3, 1.5)]
    assert "train/mfu" not in written


def test_a_resume_adds_to_the_curves_and_says_nothing_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        report(Reporter(tmp_path, tmp_path / "runs", "visualdl", max_steps=3))
    assert len(curves(tmp_path / "runs")["train/loss"]) == 6
    first, second = capsys.readouterr().out.split("train_runtime  1:15")[:2]
    assert str(tmp_path) not in first + second


def test_none_writes_no_curves(tmp_path: Path) -> None:
    report(Reporter(tmp_path, tmp_path / "runs", "none", max_steps=3))
    assert not (tmp_path / "runs").exists()
    assert len(read_metrics(tmp_path)) == 5


def test_without_visualdl_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trackers, "_is_installed", lambda library: False)
    report(Reporter(tmp_path, tmp_path / "runs", "visualdl", max_steps=3))
    assert "visualdl is not installed" in capsys.readouterr().out
    assert len(read_metrics(tmp_path)) == 5


def test_a_log_that_cannot_be_opened_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    report(Reporter(tmp_path / "file", tmp_path / "file" / "runs", "visualdl", max_steps=3))
    printed = capsys.readouterr().out
    assert "No train_log.jsonl in" in printed
    assert "No curves in" in printed
    assert "global_step: 3, " in printed


def test_a_full_disk_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    reporter = Reporter(tmp_path, tmp_path / "runs", "visualdl", max_steps=3)
    monkeypatch.setattr(metrics_log.MetricsLog, "write", full)
    monkeypatch.setattr(VisualDLTracker, "scalars", full)
    report(reporter)
    assert capsys.readouterr().out.count("No space left on device") == 2
