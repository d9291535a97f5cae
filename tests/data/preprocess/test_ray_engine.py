"""A corpus that Ray's workers turn into token data, one of which is killed, gives the bytes of one
machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.preprocess.test_resume import OPTIONS, contents
from tests.launching import PATIENCE_SECONDS, ROOT


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Five files; each repeats half of the one before. A part takes some seconds."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(5):
        texts = (f"document {n} " * 300 for n in range(1000 * number, 1000 * number + 2000))
        lines = "\n".join(json.dumps({"text": text}) for text in texts)
        (folder / f"{number}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def tasks_at_work() -> list[int]:
    """The processes of Ray that do a part now: it calls them so."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        if words.startswith(b"ray::said_of_part"):
            found.append(int(process.name))
    return found


@pytest.mark.slow
def test_parts_that_a_killed_worker_lost_are_done_again(
    preprocess: Callable[..., int],
    tokenizer: Path,
    corpus: Path,
    tmp_path: Path,
    trackers_python: Path,
) -> None:
    assert preprocess(corpus, tmp_path / "one" / "text", *OPTIONS) == 0
    # Relative paths: a task has another working folder.
    command = [trackers_python, "-m", "llm_pretrain", "preprocess", "--workers", "1"]
    command += ["--model_name_or_path", tokenizer, "--input_path", "corpus", *OPTIONS]
    command += ["--output_prefix", "ray/text", "--engine", "ray"]
    run = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not tasks_at_work() and run.poll() is None:
        time.sleep(0.05)
    for process in tasks_at_work()[:1]:
        os.kill(process, signal.SIGKILL)
    said, _ = run.communicate(timeout=PATIENCE_SECONDS)
    assert run.returncode == 0, said
    assert "was lost and is done again" in said
    assert "5 of 5 parts are done, 100.0% of the text" in said
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")


def test_ray_is_asked_for_by_name_where_it_is_missing(
    preprocess: Callable[..., int],
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert preprocess(corpus, tmp_path / "ray" / "text", "--engine", "ray") == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "--engine ray needs the package ray: pip install 'llm_pretrain[ray]'" in told


@pytest.mark.parametrize("option", [("--part", "1/2"), ("--join_parts", "2")])
def test_an_engine_that_does_all_parts_is_asked_for_none(
    option: tuple[str, str],
    preprocess: Callable[..., int],
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert preprocess(corpus, tmp_path / "ray" / "text", "--engine", "ray", *option) == 1
    assert "does all parts and joins them" in " ".join(capsys.readouterr().err.split())
