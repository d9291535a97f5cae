"""Where a job begins whose rank was replaced: what it has saved itself comes first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.checkpoint.directory import PROGRAM, STATE_FILE, checkpoint_path
from llm_pretrain.config import RunConfig, load_run_config
from llm_pretrain.parallel.comm import epochs
from llm_pretrain.training.folders import find_start
from tests.small_runs import small_config


def write_checkpoint(output_dir: Path, step: int) -> Path:
    path = checkpoint_path(output_dir, step)
    path.mkdir(parents=True)
    state = {"program": PROGRAM, "progress": {"global_step": step}}
    (path / STATE_FILE).write_text(json.dumps(state))
    return path


def resolve(folder: Path, **changes: Any) -> RunConfig:
    path = folder / "config.json"
    path.write_text(json.dumps(small_config(folder, folder, folder / "out", **changes)))
    return load_run_config(path, [])


@pytest.mark.parametrize(
    "told", [{"overwrite_output_dir": True}, {"resume_from_checkpoint": False}], ids=str
)
def test_a_job_that_was_to_begin_anew_goes_on_from_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, bool]
) -> None:
    run = resolve(tmp_path, **told)
    own = write_checkpoint(tmp_path / "out", 5)
    assert find_start(run).checkpoints == ()
    monkeypatch.setattr(epochs, "began_at", lambda: 0)
    assert find_start(run).checkpoints == (own,)


def test_a_named_checkpoint_stands_until_there_is_an_own_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = write_checkpoint(tmp_path / "elsewhere", 10)
    write_checkpoint(tmp_path / "out", 5)
    run = resolve(tmp_path, resume_from_checkpoint=str(named))
    monkeypatch.setattr(epochs, "began_at", lambda: 10)
    assert find_start(run).checkpoints == (named,)
    own = write_checkpoint(tmp_path / "out", 15)
    assert find_start(run).checkpoints == (own, named)
