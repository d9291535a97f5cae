"""What a plan expects of a run that is under way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.training.expectation import Expectation
from tests.launching import PATIENCE_SECONDS, ROOT
from tests.small_runs import small_config, write_config, write_model


def record(folder: Path, device: str) -> dict[str, Any]:
    """The part of `run.json` that a plan reads, of a run in `folder` on that device."""
    config = small_config(write_model(folder / "model"), folder, folder, bf16=True)
    configuration = {key: {"value": value, "source": "a.json"} for key, value in config.items()}
    configuration["tensor_parallel_degree"] = {"value": 2, "source": "command line"}
    return {
        "configuration": configuration,
        "machine": {"device": device},
        "starts": [{"processes": 1}, {"processes": 2}],
    }


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_it_is_the_own_layout_of_the_plan(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(record(tmp_path, "NVIDIA A100-SXM4-80GB")))
    expectation = Expectation(tmp_path)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := expectation.metrics()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    expectation.close()
    assert expectation.metrics() == found
    content = {key: entry["value"] for key, entry in record(tmp_path, "")["configuration"].items()}
    config = write_config(tmp_path / "config.json", content)
    command = [sys.executable, "-m", "llm_pretrain", "plan", config]
    planned = subprocess.run(
        [*command, "--gpus", "2", "--gpu", "a100-80g", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    own = json.loads(planned.stdout)["own"]
    assert found == {
        "planned_tokens_per_second_per_device": own["tokens_per_second_per_device"],
        "planned_max_memory_allocated": own["max_memory_allocated_mib"],
    }


def test_of_an_unknown_device_nothing_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(record(tmp_path, "a device of tomorrow")))
    command = [sys.executable, "-m", "llm_pretrain.cli.own_plan", path]
    assert subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout == "null\n"


def test_an_expectation_that_takes_too_long_is_left(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(record(tmp_path, "NVIDIA A100-SXM4-80GB")))
    expectation = Expectation(tmp_path)
    assert expectation.metrics() == {}
    expectation.close()
    assert expectation.metrics() == {}
