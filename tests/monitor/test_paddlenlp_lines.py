"""The lines of a log, read as PaddleNLP's users read them."""

from __future__ import annotations

import re

import pytest

from llm_pretrain.monitor.metrics_log import (
    STEP_FIELDS,
    evaluation_line,
    read_line,
    step_line,
)

STEP = {
    "global_step": 30,
    "loss": 7.577752691,
    "ppl": 1954.2341,
    "learning_rate": 1.23456e-05,
    "global_norm": 0.5,
    "step_seconds": 0.25,
    "interval_runtime": 2.5,
    "interval_samples_per_second": 4.0,
    "interval_tokens_per_second_per_device": 5442.52081,
    "interval_steps_per_second": 4.0,
    "mfu": None,
    "data_wait_share": 0.0,
    "consumed_samples": 240,
}
ON_CPU = {**STEP, "max_memory_allocated": 457.0}
ON_GPU = {
    **STEP,
    "current_memory_allocated": 1024.0,
    "current_memory_reserved": 2048.0,
    "max_memory_allocated": 3072.0,
    "max_memory_reserved": 4096.0,
}


def awk(line: str, separator: str, field: int) -> str:
    return line.split(separator)[field - 1]


def test_a_line_begins_as_theirs() -> None:
    form = (
        r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\] \[    INFO\] - loss: 7.57775269, learning_rate: "
    )
    assert re.match(form, step_line(ON_CPU, 100, "0:10"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (r"loss: ([\d.]+)", "7.57775269"),
        (r"learning_rate: ([\d.e+-]+)", "1.235e-05"),
        (r"global_step: (\d+)", "30"),
        (r"interval_runtime: ([\d.]+)", "2.5"),
        (r"interval_tokens_per_second_per_device: ([\d.]+)", "5442.5208"),
        (r"ppl: ([\d.]+)", "1954.2341"),
        (r"cpu_mem_used_peak: ([\d.]+)", "457.0"),
        (r"progress_or_epoch: ([\d.]+)", "0.3"),
        (r"progress: (\S+ \S+),", "30/100 (30.0%)"),
        (r"time_left: (\S+)$", "0:10"),
    ],
)
def test_every_value_is_found_by_its_name(field: str, value: str) -> None:
    found = re.search(field, step_line(ON_CPU, 100, "0:10"))
    assert found
    assert found[1] == value


def test_places_between_commas_are_theirs() -> None:
    """Benchmarks of PaddleNLP on GPUs print the 7th, 8th and 11th word between commas."""
    line = step_line(ON_GPU, 100, "0:10")
    assert awk(line, ",", 7) == " max_memory_allocated: 3.0"
    assert awk(line, ",", 8) == " max_memory_reserved: 4.0"
    assert awk(line, ",", 11) == " interval_tokens_per_second_per_device: 5442.5208"
    assert awk(awk(line, "loss: ", 2), ",", 1) == "7.57775269"
    assert "cpu_mem" not in line


def test_all_after_the_dash_is_name_and_value() -> None:
    line = step_line(ON_CPU | {"loss_scale": 1024.0, "skipped_steps": 2}, 100, "1:00:10")
    fields = dict(part.split(": ") for part in line.split(" - ")[1].split(", "))
    assert fields["loss_scale"] == "1024.0"
    assert fields["skipped_steps"] == "2"
    assert "mfu" not in fields


def test_an_evaluation_does_not_pass_for_a_step() -> None:
    line = evaluation_line({"global_step": 30, "eval_loss": 4.123456789, "eval_ppl": 61.77})
    assert line.endswith(" - global_step: 30, eval_loss: 4.12345679, eval_ppl: 61.77")
    assert not re.search(r"loss: [\d.]+.*global_step: ", line)


@pytest.mark.parametrize("metrics", [ON_CPU, ON_GPU, {**ON_CPU, "skipped_steps": 2}])
def test_what_a_line_says_can_be_read(metrics: dict) -> None:
    found = read_line(step_line(metrics, 100, "0:10"))
    assert found is not None
    assert isinstance(found["global_step"], int)
    for name in found.keys() & metrics.keys():
        assert found[name] == pytest.approx(metrics[name], rel=1e-3), name
    assert found.keys() >= {name for name in ON_CPU if name in STEP_FIELDS and ON_CPU[name]}
    evaluation = read_line(evaluation_line({"global_step": 30, "eval_loss": 4.5}))
    assert evaluation == {"global_step": 30, "eval_loss": 4.5}


def test_other_lines_say_nothing_of_a_step() -> None:
    for line in ("", "Saved out/checkpoint-3: 2 MB in 0.1 s.", "[x] [    INFO] - a: 1", "["):
        assert read_line(line) is None
