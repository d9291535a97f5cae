"""Which directories count as checkpoints, which is resumed, and which are removed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.checkpoint.checksums import join_notes, note_files
from llm_pretrain.checkpoint.directory import (
    STATE_FILE,
    find_checkpoints,
    keep_newest,
    publish,
    read_state,
    set_aside,
    whole_checkpoints,
    writing_path,
)
from llm_pretrain.config import ConfigError


def make(output_dir: Path, *steps: int) -> None:
    for step in steps:
        path = output_dir / f"checkpoint-{step}"
        path.mkdir(parents=True)
        (path / STATE_FILE).write_text('{"program": "llm_pretrain"}')


def names(output_dir: Path) -> list[str]:
    return [path.name for path in whole_checkpoints(output_dir)]


def test_checkpoints_are_ordered_by_step_not_by_name(tmp_path: Path) -> None:
    make(tmp_path, 1000, 200, 30)
    assert names(tmp_path) == ["checkpoint-30", "checkpoint-200", "checkpoint-1000"]


def test_unfinished_removed_and_foreign_directories_do_not_count(tmp_path: Path) -> None:
    make(tmp_path, 5)
    for name in ("checkpoint-6.writing", "checkpoint-7.removing", "checkpoint-best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / STATE_FILE).write_text("{}")
    (tmp_path / "checkpoint-8").mkdir()
    assert names(tmp_path) == ["checkpoint-5"]


def test_the_last_is_found_unless_another_is_named(tmp_path: Path) -> None:
    make(tmp_path, 5, 10)
    newest_first = [tmp_path / "checkpoint-10", tmp_path / "checkpoint-5"]
    assert find_checkpoints(tmp_path, None, overwrite=False).checkpoints == newest_first
    assert find_checkpoints(tmp_path, True, overwrite=False).checkpoints == newest_first
    named = find_checkpoints(tmp_path, str(tmp_path / "checkpoint-5"), overwrite=True)
    assert named.checkpoints == [tmp_path / "checkpoint-5"]


def test_starting_anew_finds_none_and_says_why(tmp_path: Path) -> None:
    make(tmp_path, 5)
    found = find_checkpoints(tmp_path, None, overwrite=True)
    assert found.checkpoints == []
    assert "overwrite_output_dir" in found.reason
    found = find_checkpoints(tmp_path, False, overwrite=False)
    assert found.checkpoints == []
    assert "resume_from_checkpoint is false" in found.reason


def test_a_wanted_checkpoint_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"resume_from_checkpoint.*checkpoint-3"):
        find_checkpoints(tmp_path, str(tmp_path / "checkpoint-3"), overwrite=False)
    with pytest.raises(ConfigError, match=r"resume_from_checkpoint is true, but .* no checkpoint"):
        find_checkpoints(tmp_path, True, overwrite=False)
    assert find_checkpoints(tmp_path, None, overwrite=False).checkpoints == []


def test_an_incomplete_one_is_passed_over_and_named(tmp_path: Path) -> None:
    make(tmp_path, 5, 10, 15)
    (tmp_path / "checkpoint-15" / STATE_FILE).unlink()
    checkpoint = tmp_path / "checkpoint-10"
    (checkpoint / "part").write_text("12345678")
    note_files(checkpoint, 0, [checkpoint / "part", checkpoint / STATE_FILE])
    join_notes(checkpoint)
    (checkpoint / "part").write_text("1234")
    found = find_checkpoints(tmp_path, None, overwrite=False)
    assert found.checkpoints == [tmp_path / "checkpoint-5"]
    assert {path.name: problem.split("/")[-1] for path, problem in found.incomplete.items()} == {
        "checkpoint-15": f"{STATE_FILE} is missing",
        "checkpoint-10": "part has 4 bytes where 8 were written",
    }
    with pytest.raises(ConfigError, match=r"checkpoint-10 is not.*4 bytes.*one there is .*-5"):
        find_checkpoints(tmp_path, str(checkpoint), overwrite=False)


def test_a_damaged_state_file_is_named(tmp_path: Path) -> None:
    make(tmp_path, 5)
    (tmp_path / "checkpoint-5" / STATE_FILE).write_text("{")
    with pytest.raises(ConfigError, match=STATE_FILE):
        read_state(tmp_path / "checkpoint-5")


def test_another_programs_checkpoint_is_refused(tmp_path: Path) -> None:
    make(tmp_path, 5)
    (tmp_path / "checkpoint-5" / STATE_FILE).write_text('{"global_step": 5}')
    with pytest.raises(ConfigError, match="another program"):
        read_state(tmp_path / "checkpoint-5")


def test_publishing_replaces_an_older_one_of_the_same_step(tmp_path: Path) -> None:
    make(tmp_path, 5)
    checkpoint = tmp_path / "checkpoint-5"
    writing_path(checkpoint).mkdir()
    state = {"program": "llm_pretrain", "new": True}
    (writing_path(checkpoint) / STATE_FILE).write_text(json.dumps(state))
    publish(checkpoint, rank=0)
    assert read_state(checkpoint) == state
    publish(checkpoint, rank=1)
    assert read_state(checkpoint) == state, "a second rank has nothing to do"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_replacing_one_never_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the process is killed at the worst moment: every rename is watched."""
    make(tmp_path, 5)
    writing = writing_path(tmp_path / "checkpoint-5")
    writing.mkdir()
    (writing / STATE_FILE).write_text('{"program": "llm_pretrain", "is_new": true}')
    seen: list[list[str]] = []
    replace, rmtree = os.replace, shutil.rmtree

    def watched(action: Callable[..., None], *arguments: Any, **options: Any) -> None:
        seen.append(names(tmp_path))
        action(*arguments, **options)
        seen.append(names(tmp_path))

    monkeypatch.setattr(os, "replace", lambda *names: watched(replace, *names))
    monkeypatch.setattr(shutil, "rmtree", lambda *a, **options: watched(rmtree, *a, **options))
    publish(tmp_path / "checkpoint-5", 0)
    assert all(found == ["checkpoint-5"] for found in seen)
    assert len(seen) >= 4
    assert json.loads((tmp_path / "checkpoint-5" / STATE_FILE).read_text())["is_new"]


def test_milestones_are_kept_and_do_not_count(tmp_path: Path) -> None:
    make(tmp_path, 10, 20, 30, 35, 40, 50)
    keep_newest(tmp_path, 2, keep_every=20)
    assert names(tmp_path) == ["checkpoint-20", "checkpoint-35", "checkpoint-40", "checkpoint-50"]


def test_what_is_set_aside_is_kept_under_another_name(tmp_path: Path) -> None:
    make(tmp_path, 5, 10)
    checkpoint = tmp_path / "checkpoint-10"
    for _ in range(2):
        aside = set_aside(checkpoint, "abandoned")
        assert aside is not None
        assert aside.name == "checkpoint-10.abandoned"
        assert (aside / STATE_FILE).is_file()
        assert names(tmp_path) == ["checkpoint-5"]
        make(tmp_path, 10)
    set_aside(checkpoint, "damaged")
    assert set_aside(checkpoint, "damaged") is None, "another node was the first"


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    make(tmp_path, 1, 2, 3, 4)
    keep_newest(tmp_path, 2, spared=[1])
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-3", "checkpoint-4"]
    keep_newest(tmp_path, None)
    assert len(names(tmp_path)) == 3
