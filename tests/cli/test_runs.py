"""The table of runs fits 80 columns and says of each what its log says."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.cli import main, runs
from llm_pretrain.machine.language import VARIABLE
from llm_pretrain.machine.terminal import columns_of
from llm_pretrain.monitor.metrics_log import MetricsLog


def write_run(folder: Path, *, rate: float, ends: bool = True, day: int = 1) -> None:
    log = MetricsLog(folder)
    for step in range(1, 31):
        speed = {"interval_tokens_per_second_per_device": 12345.0}
        log.write("step", {"global_step": step, "loss": 5 - step / 10, **speed})
    for step, loss in ((10, 2.5), (20, 2.25), (30, 2.75)):
        log.write("evaluation", {"global_step": step, "eval_loss": loss})
        (folder / f"checkpoint-{step}").mkdir(parents=True)
    if ends:
        log.write("event", {"global_step": 30, "event": "end", "signal": None, "message": "Done."})
    log.close()
    values = {"learning_rate": rate, "max_steps": 30, "output_dir": str(folder)}
    configuration = {key: {"value": value, "source": "x"} for key, value in values.items()}
    starts = [{"time": f"2026-11-{day:02}T12:00:00"}]
    record = {"configuration": configuration, "starts": starts}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")


def lines_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["runs", str(folder)]) == 0
    return capsys.readouterr().out.splitlines()


def test_each_run_is_a_line_with_what_is_changed_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "later", rate=0.002, ends=False, day=2)
    write_run(tmp_path / "deep" / "first", rate=0.001)
    assert [line.split() for line in lines_of(tmp_path, monkeypatch, capsys)] == [
        ["run", "state", "step", "loss", "best", "tok/s/dev", "started"],
        ["deep/first", "done", "30/30", "2.0000", "20", "2.2500", "12.35k", "11-01", "12:00"],
        ["learning_rate", "0.001"],
        ["later", "interrupted", "30/30", "2.0000", "20", "2.2500", "12.35k", "11-02", "12:00"],
        ["learning_rate", "0.002"],
    ]


def test_the_table_in_chinese_lines_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, "zh")
    write_run(tmp_path / "训练一", rate=0.001)
    write_run(tmp_path / "later", rate=0.002, ends=False, day=2)
    heads, first, _, later, _ = lines_of(tmp_path, monkeypatch, capsys)
    assert heads.split() == ["训练", "状态", "步", "损失", "最佳", "token/秒/设备", "开始"]
    assert first.split()[:3] == ["训练一", "已完成", "30/30"]
    assert later.split()[:3] == ["later", "中断", "30/30"]
    for head, *cells in (
        ("状态", "已完成", "中断"),
        ("步", "30/30", "30/30"),
        ("开始", "11-01", "11-02"),
    ):
        begins = {
            columns_of(line[: line.index(cell)])
            for line, cell in zip((heads, first, later), (head, *cells), strict=True)
        }
        assert len(begins) == 1
    assert max(map(columns_of, (heads, first, later))) <= 80


def test_long_names_and_many_keys_keep_to_the_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        folder = tmp_path / f"a-name-of-a-run-that-is-longer-than-its-column-{number}"
        write_run(folder, rate=number / 1000)
        path = folder / "run.json"
        record = json.loads(path.read_text())
        record["configuration"] |= {
            f"some_key_with_a_long_name_{key}": {"value": f"{key}{number}" * 50, "source": "x"}
            for key in range(9)
        }
        path.write_text(json.dumps(record))
    lines = lines_of(tmp_path, monkeypatch, capsys)
    assert max(map(len, lines)) <= 80
    assert sum("30/30" in line for line in lines) == 3


def test_a_folder_without_runs_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", str(tmp_path)]) == 1
    assert "hold no run" in capsys.readouterr().err
    assert main(["runs", str(tmp_path / "nowhere")]) == 1
    assert "is no folder" in capsys.readouterr().err


def test_a_configuration_called_run_json_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text('{"max_steps": 3}')
    write_run(tmp_path / "out", rate=0.001)
    assert [line.split()[0] for line in lines_of(tmp_path, monkeypatch, capsys)] == ["run", "out"]


def test_a_run_that_cant_be_read_is_told_below_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "good", rate=0.001)
    write_run(tmp_path / "secret", rate=0.001)
    read = runs.read_history

    def refused(folder: Path, *words: Any, **options: Any) -> Any:
        if folder.name == "secret":
            raise PermissionError(errno.EACCES, "denied", str(folder / "train_log.jsonl"))
        return read(folder, *words, **options)

    monkeypatch.setattr(runs, "read_history", refused)
    assert main(["runs", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == ["run", "good"]
    assert "secret/train_log.jsonl: Permission denied" in printed.err.replace("\n  ", " ")


def test_a_damaged_run_has_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train_log.jsonl").write_text('{"run": 1, "ki')
    (tmp_path / "broken" / "run.json").write_text("{")
    lines = lines_of(tmp_path, monkeypatch, capsys)
    assert lines[1].split() == ["broken", "not", "begun", "0", *"––––"]
