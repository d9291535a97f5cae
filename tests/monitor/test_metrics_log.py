from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.monitor.metrics_log import MetricsLog, read_metrics


def write(directory: Path, *steps: int, loss: float = 1.0) -> None:
    log = MetricsLog(directory)
    for step in steps:
        log.write("step", {"global_step": step, "loss": loss})
    log.close()


def raw_lines(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "train_log.jsonl").read_text().splitlines()]


def test_numbers_come_back_bit_for_bit(tmp_path: Path) -> None:
    losses = [math.pi, 1e-300, float(np.float32(0.1)), 1 / 3]
    log = MetricsLog(tmp_path)
    for step, loss in enumerate(losses):
        log.write("step", {"global_step": step, "loss": loss})
    log.write("step", {"global_step": 4, "loss": np.float32(0.1)})
    assert [line["loss"] for line in read_metrics(tmp_path)] == [*losses, float(np.float32(0.1))]
    log.close()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_say_is_null_and_named(tmp_path: Path, value: float) -> None:
    write(tmp_path, 1, loss=value)
    text = (tmp_path / "train_log.jsonl").read_text()
    line = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert line["loss"] is None
    assert line["not_finite"] == {"loss": str(value)}


def test_a_line_is_on_disk_at_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write("step", {"global_step": 1, "mfu": None})
    assert raw_lines(tmp_path)[0]["mfu"] is None
    log.close()


def test_a_resumed_run_supersedes_what_it_repeats(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, 4, loss=1.0)
    write(tmp_path, 3, 4, 5, loss=2.0)
    assert len(raw_lines(tmp_path)) == 7, "nothing is ever removed from the file"
    history = [(line["global_step"], line["loss"]) for line in read_metrics(tmp_path)]
    assert history == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]


def test_an_event_of_the_step_that_a_run_goes_on_from_supersedes_nothing(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3)
    log = MetricsLog(tmp_path)
    event = {"event": "restart", "global_step": 2, "parts": [1, {"a": 2.5}]}
    log.write("event", event)
    log.write("step", {"global_step": 3, "loss": 2.0})
    log.close()
    lines = read_metrics(tmp_path)
    assert [(line["kind"], line["global_step"]) for line in lines] == [
        ("step", 1),
        ("step", 2),
        ("event", 2),
        ("step", 3),
    ]
    assert {name: lines[2][name] for name in event} == event


def test_the_next_log_finds_the_last_goodput(tmp_path: Path) -> None:
    for share in (0.5, 0.75):
        log = MetricsLog(tmp_path)
        log.write("goodput", {"goodput": share, "seconds": {"training": 1.0}})
        log.write("step", {"global_step": 1})
        log.close()
    log = MetricsLog(tmp_path)
    assert log.earlier_runs == 2
    assert log.last_goodput is not None
    assert log.last_goodput["goodput"] == 0.75
    log.close()


def test_a_run_from_the_start_supersedes_all(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3)
    write(tmp_path, 4, 5)
    write(tmp_path, 1)
    assert [(line["run"], line["global_step"]) for line in read_metrics(tmp_path)] == [(3, 1)]


def test_a_run_that_goes_back_supersedes_what_it_repeats(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.write("step", {"global_step": step, "loss": 1.0})
    log.write("rewind", {"global_step": 3, "rewound_to": 1})
    log.write("step", {"global_step": 2, "loss": 2.0})
    log.close()
    kept = [
        (line["kind"], line["global_step"], line.get("loss")) for line in read_metrics(tmp_path)
    ]
    assert kept == [("step", 1, 1.0), ("rewind", 3, None), ("step", 2, 2.0)]


def test_a_line_cut_short_harms_neither_reader_nor_next_run(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    path = tmp_path / "train_log.jsonl"
    path.write_text(path.read_text()[:-20])
    write(tmp_path, 2, 3)
    assert [line["global_step"] for line in read_metrics(tmp_path)] == [1, 2, 3]


def test_no_file_no_history(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "train_log.jsonl").write_bytes(b'[1]\n{"run": "x"}\n\xff\xfe\n')
    write(tmp_path, 7)
    assert [line["global_step"] for line in read_metrics(tmp_path)] == [7]


def test_steps_that_a_run_went_back_from_are_left_out(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.write("step", {"global_step": step, "loss": 1.0 * step})
    log.write("event", {"event": "spike", "global_step": 4})
    log.write("event", {"event": "rewind", "global_step": 4, "rewound_to": 2})
    log.write("step", {"global_step": 5, "loss": 5.0})
    log.close()
    lines = read_metrics(tmp_path)
    assert [line["global_step"] for line in lines if line["kind"] == "step"] == [1, 2, 5]
    assert [line["event"] for line in lines if line["kind"] == "event"] == ["spike", "rewind"]
