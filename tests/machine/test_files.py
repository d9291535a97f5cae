"""A file is there whole, or as it was before."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_pretrain.machine.files import replacing, write_text


@pytest.mark.parametrize("flush", [True, False])
def test_a_file_takes_its_name_when_it_is_written(tmp_path: Path, flush: bool) -> None:
    path = tmp_path / "note.json"
    write_text(path, "old", flush=flush)
    with replacing(path, flush=flush) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as unfinished:
            unfinished.write_text("half")
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    with replacing(path, writer=1) as one, replacing(path, writer=2) as other:
        one.write_text("same")
        other.write_text("same")
    assert path.read_text() == "same"
    assert list(tmp_path.iterdir()) == [path]
