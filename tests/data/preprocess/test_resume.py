"""A run that is interrupted goes on, and what it leaves never looks whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest

from llm_pretrain.data import indexed_writer
from llm_pretrain.data.preprocess import inputs, unfinished

Run = Callable[..., int]
OPTIONS = ("--append_eos", "--remove_duplicates", "--held_out_share", "0.2")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Five files of 40 documents; each repeats half of the one before."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(5):
        documents = [f"document {n}" for n in range(20 * number, 20 * number + 40)]
        (folder / f"{number}.txt").write_text("\n\n".join(documents))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the inputs that are opened from now on."""
    names: list[str] = []
    original = inputs.Source.open

    @contextmanager
    def recording(source: inputs.Source):
        names.append(source.path.name)
        with original(source) as file:
            yield file

    monkeypatch.setattr(inputs.Source, "open", recording)
    return names


def interrupt_at(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    original = inputs.Source.open

    @contextmanager
    def interrupted(source: inputs.Source):
        if source.path.name == name:
            raise KeyboardInterrupt
        with original(source) as file:
            yield file

    monkeypatch.setattr(inputs.Source, "open", interrupted)


def test_interrupted_run_goes_on(
    preprocess: Run,
    corpus: Path,
    tmp_path: Path,
    opened: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert preprocess(corpus, tmp_path / "whole" / "x", *OPTIONS) == 0
    opened.clear()
    again = tmp_path / "again" / "x"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, "3.txt")
        assert preprocess(corpus, again, *OPTIONS) == 130
    assert {path.name for path in again.parent.iterdir()} == {"x.unfinished"}
    assert "3 of 5 inputs are done and kept" in capsys.readouterr().out
    assert opened == ["0.txt", "1.txt", "2.txt"]
    opened.clear()
    assert preprocess(corpus, again, *OPTIONS, "--workers", "2") == 0
    assert opened == ["3.txt", "4.txt"]
    assert contents(again.parent) == contents(tmp_path / "whole")
    assert "3 of 5 inputs are done" in capsys.readouterr().out


KILLED = """
import os, signal, sys
from llm_pretrain.data.preprocess import main, unfinished
unfinished._SECONDS_BETWEEN_NOTES = 0
end_input = unfinished.Unfinished.end_input
def die_after_the_third(self, counts):
    end_input(self, counts)
    if self.finished == 3:
        os.kill(os.getpid(), signal.SIGKILL)
unfinished.Unfinished.end_input = die_after_the_third
main(sys.argv[1:])
"""


def test_killed_run_goes_on(
    preprocess: Run, corpus: Path, tokenizer: Path, tmp_path: Path, opened: list[str]
) -> None:
    again = tmp_path / "again" / "x"
    words = ["--model_name_or_path", tokenizer, "--input_path", corpus, "--output_prefix", again]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *words, "--workers", "1", *OPTIONS],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    # What was being written when it died is cut off.
    with (again.parent / "x.unfinished" / "main.tokens").open("ab") as file:
        file.write(b"half a document")
    assert preprocess(corpus, again, *OPTIONS) == 0
    assert opened == ["3.txt", "4.txt"]
    assert preprocess(corpus, tmp_path / "whole" / "x", *OPTIONS) == 0
    assert contents(again.parent) == contents(tmp_path / "whole")


@pytest.mark.parametrize("change", ["options", "input", "tokenizer"])
def test_unfinished_work_of_another_kind_is_not_mixed_in(
    preprocess: Run,
    corpus: Path,
    tokenizer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: str,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, "3.txt")
        assert preprocess(corpus, tmp_path / "x") == 130
    more: tuple[str, ...] = ()
    if change == "options":
        more = ("--append_eos",)
    elif change == "input":
        (corpus / "5.txt").write_text("one more")
    else:
        other = tmp_path / "tokenizer"
        other.mkdir()
        text = (tokenizer / "tokenizer.json").read_text()
        (other / "tokenizer.json").write_text(text.replace('"</s>"', '"<end>"'))
        more = ("--model_name_or_path", str(other))
    assert preprocess(corpus, tmp_path / "x", *more) == 1
    expected = {"options": "--append_eos", "input": "list of input files", "tokenizer": "tokenizer"}
    assert f"but of another {expected[change]}. Repeat that command" in capsys.readouterr().err
    assert not (tmp_path / "x.bin").exists()


def test_what_may_change_between_the_two_runs(
    preprocess: Run, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "3.txt").write_bytes(b"\xff")
    assert preprocess(corpus, tmp_path / "x") == 1
    assert "3.txt:1: " in capsys.readouterr().err
    assert preprocess(corpus, tmp_path / "x", "--on_error", "skip", "--log_interval", "7") == 0
    assert "160 documents" in capsys.readouterr().out


def test_nothing_finished_leaves_nothing(preprocess: Run, corpus: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, "0.txt")
        assert preprocess(corpus, tmp_path / "out" / "x") == 130
    assert list((tmp_path / "out").iterdir()) == []


def test_two_runs_do_not_write_the_same_output(
    preprocess: Run, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = unfinished.Unfinished(tmp_path / "x", unfinished.np.dtype("u2"), {})
    assert preprocess(corpus, tmp_path / "x") == 1
    assert "Another process is writing" in capsys.readouterr().err
    busy.leave()
    assert preprocess(corpus, tmp_path / "x") == 0


def test_full_disk_at_the_end_loses_nothing(
    preprocess: Run, corpus: Path, tmp_path: Path, opened: list[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexed_writer, "write_index", full)
        assert preprocess(corpus, tmp_path / "out" / "x") == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"x.unfinished"}
    opened.clear()
    assert preprocess(corpus, tmp_path / "out" / "x") == 0
    assert opened == []
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"x.bin", "x.idx"}
