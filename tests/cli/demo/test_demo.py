"""`make demo` goes on after Ctrl-C, says when it is done, and makes half-made data anew."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm_pretrain.cli.demo import data
from llm_pretrain.monitor.metrics_log import read_metrics

ROOT = Path(__file__).parents[3]
TEXTS = [f"Return the number of things that are {i} or more than {i * i}." for i in range(400)]
SHORT = "--eval_iters 1 --eval_steps 4 --logging_steps 1 --save_steps 1000000 --report_to none"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What of the repository the demo needs, with data of a few texts made from half-made ones."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "configs/llama", folder / "configs/llama")
    for name in ("Makefile", "pyproject.toml", "run_pretrain.py"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "requirements").mkdir()
    shutil.copy(ROOT / "requirements/main.txt", folder / "requirements")
    (folder / "bin").mkdir()
    python = folder / "bin/python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    for half in ("tokenizer/tokenizer.json", "data/demo.bin", "data/demo.unfinished/main.tokens"):
        path = folder / "output/demo" / half
        path.parent.mkdir(parents=True)
        path.write_text("{")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setattr(data, "documents", lambda: TEXTS)
        assert data.make_data() == 0
        made = (folder / "output/demo/data/demo.idx").stat().st_mtime_ns
        assert data.make_data() == 0, "whole data are left as they are"
        assert (folder / "output/demo/data/demo.idx").stat().st_mtime_ns == made
    return folder


def start_demo(folder: Path, arguments: str) -> subprocess.Popen[str]:
    # The set-up is this interpreter's, and make is told that it is done.
    done = ("--old-file", ".venv/ready", "--old-file", ".venv/imported")
    command = ["make", "demo", f"BIN={folder}/bin", "CXX=none", *done]
    environment = {name: value for name, value in os.environ.items() if "PADDLE_" not in name}
    return subprocess.Popen(
        [*command, f"ARGS={SHORT} {arguments}"],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def steps(folder: Path) -> list[int]:
    lines = read_metrics(folder / "output/demo/run")
    return [line["global_step"] for line in lines if line["kind"] == "step"]


def test_the_demo_goes_on_and_says_when_it_is_done(folder: Path) -> None:
    with start_demo(folder, "--max_steps 1000") as demo:
        while not steps(folder):
            assert demo.poll() is None
            time.sleep(0.05)
        os.killpg(demo.pid, signal.SIGINT)
        printed, _ = demo.communicate(timeout=300)
    assert demo.returncode == -signal.SIGINT, printed
    assert "Traceback" not in printed
    (checkpoint,) = (folder / "output/demo/run").glob("checkpoint-*")
    reached = int(checkpoint.name.removeprefix("checkpoint-"))
    assert f"{checkpoint.name}" in printed, "what was saved is said after the signal"
    assert "`make demo` goes on from here" in printed

    end = reached + 2
    with start_demo(folder, f"--max_steps {end}") as demo:
        printed, _ = demo.communicate(timeout=300)
    assert demo.returncode == 0, printed
    assert steps(folder) == list(range(1, end + 1))
    assert "evaluation loss" in printed or "training loss" in printed

    with start_demo(folder, f"--max_steps {end}") as demo:
        printed, _ = demo.communicate(timeout=300)
    assert demo.returncode == 0, printed
    assert "The demo is done" in printed
    assert "--overwrite_output_dir starts anew" in printed
    assert "run_pretrain.py" not in printed, "nothing is trained"
    assert "training loss" in printed
    assert TEXTS[0][:20] in printed, "the sample"
