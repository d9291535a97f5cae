"""The commands of the README and of the pages in docs/ are run, training for two steps only."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm_pretrain.config import load_run_config
from tests.emulated_device.compile_plugin import DEVICE, compiler
from tests.emulated_device.compile_plugin import environment as plugin_environment

ROOT = Path(__file__).parent.parent
ALL = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
# The pages in Chinese have the same commands: tests/test_twins.py.
PAGES = [page for page in ALL if not page.endswith("_zh.md")]
TINY = list(ROOT.glob("configs/*/tiny.json"))
COMMANDS = ("make ", "python ", "llm-pretrain ", "scripts/", "visualdl ", "grep ")
SHORT = "--max_steps 2 --eval_steps 2 --eval_iters 1 --save_steps 2 --logging_steps 1"
TRIED = "docs/accelerators.md"
TUTORIAL = "docs/tutorial.md"
"""Whose commands tests/test_tutorial.py runs whole."""
NEW_DEVICE = "--device npu"
"""For which the emulated device stands in, where it can be compiled."""
# What stands for a reader's own files.
STAND_INS = {
    "DIRECTORY_WITH_THE_TOKENIZER": "output/demo/tokenizer",
    "text.jsonl": "output/demo/corpus.jsonl",
    "CONFIG": "configs/llama/demo.json",
}
NOT_RUN = {
    "pip install": "needs the network; test_extras_of_the_readme checks what it names",
    "--nnodes": "needs two launchers at once; tests/training/test_nodes.py has them",
    "launch_node.py": "needs two machines; tests/test_scripts.py runs it with a stand-in launcher",
    "make test": "is what runs this test",
    "make bench": "takes minutes; test_the_benchmark_runs has a small one",
    "benchmarks/train_step.py": "takes minutes; test_the_benchmark_runs has a small one",
    "benchmarks/ops.py": "takes minutes; tests/test_benchmarks_ops.py has a small one",
    "benchmarks/saving.py": "takes minutes; test_the_benchmark_of_saving_runs has a small one",
    "benchmarks/checkpoints.py": "takes minutes; a slow test has a small one",
    "benchmarks/layouts.py": "takes minutes; test_the_benchmark_of_layouts_runs has a small one",
    "benchmarks/collectives.py": "takes minutes; test_the_benchmark_of_collectives_runs has a part",
    "benchmarks/data.py": "takes minutes; test_the_benchmark_of_data_runs has a small one",
    "make gpu-": "needs a GPU; tests/external_ops/test_cuda_compiles.py has it without one",
    "--engine ray": "needs Ray; tests/data/preprocess/test_ray_engine.py runs it with Ray",
    "visualdl": "serves until it is stopped",
}


def blocks(page: str, *languages: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language in languages]


def commands(page: str) -> list[str]:
    lines = "".join(blocks(page, "", "bash", "sh")).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.startswith(COMMANDS)]


def runnable(page: str) -> list[str]:
    return [line for line in commands(page) if not any(part in line for part in NOT_RUN)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of the repository that a user's commands name, after `make demo`."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("configs", "scripts", "requirements"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("Makefile", "pyproject.toml", "run_pretrain.py"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "bin").mkdir()
    for name, words in (("python", ""), ("python3", ""), ("llm-pretrain", " -m llm_pretrain")):
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        script.chmod(0o755)
    (folder / "demo.txt").write_text(run(folder, "make demo"), encoding="utf-8")
    config = json.loads((folder / "configs/llama/demo.json").read_text(encoding="utf-8"))
    del config["min_learning_rate"]
    (folder / "run.json").write_text(json.dumps(config))
    return folder


def run(folder: Path, command: str) -> str:
    """Run a command as typed, but for a shorter training; returns what it printed."""
    for name, stand_in in STAND_INS.items():
        command = re.sub(rf"(?<![\w/.]){re.escape(name)}(?:\.json)?(?![\w.])", stand_in, command)
    if command == "make demo":
        # The set-up is this interpreter's, and make is told that it is done; so are the operators.
        done = "--old-file .venv/ready --old-file .venv/imported"
        command = f'make demo BIN=bin CXX=none {done} ARGS="{SHORT}"'
    elif (
        "run_pretrain.py" in command
        or "run_trainer" in command
        or re.search(" train | launch ", command)
    ):
        command = f"{command} {SHORT}"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")
    }
    environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{environment['PATH']}"
    environment["PYTHONPATH"] = str(ROOT)
    if NEW_DEVICE in command and compiler() is not None:
        command = command.replace(NEW_DEVICE, f"--device {DEVICE}")
        environment |= plugin_environment()
    done = subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_the_demo_ends_with_what_it_promises(folder: Path) -> None:
    printed = (folder / "demo.txt").read_text(encoding="utf-8")
    for promised in ("training loss", "evaluation loss", "checkpoint-2", "visualdl --logdir"):
        assert promised in printed
    assert list((folder / "output/demo/run/runs").rglob("vdlrecords*"))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if runnable(page) and page not in (TRIED, TUTORIAL)]
)
def test_the_commands_run(page: str, folder: Path) -> None:
    for command in runnable(page):
        if command != "make demo":
            run(folder, command)


@pytest.mark.parametrize("family", sorted(path.parent.name for path in TINY))
def test_the_tiny_configs_train(family: str, folder: Path) -> None:
    config = folder / f"configs/{family}/tiny.json"
    run(folder, f"llm-pretrain train {config}")
    output = json.loads(config.read_text(encoding="utf-8"))["output_dir"]
    assert (folder / output / "model.safetensors").exists()


@pytest.mark.parametrize("page", [page for page in ALL if blocks(page, "json", "yaml")])
def test_the_configurations_load(page: str, tmp_path: Path) -> None:
    for language in ("json", "yaml"):
        for block in blocks(page, language):
            path = tmp_path / f"run.{language}"
            path.write_text(block, encoding="utf-8")
            load_run_config(path)


def test_the_commands_for_another_accelerator_are_three_and_use_it(folder: Path) -> None:
    tried = commands(TRIED)
    assert [NEW_DEVICE in command for command in tried] == [False, True, True]
    losses = []
    for command in tried:
        printed = run(folder, command)
        assert "has no effect" not in printed or compiler() is None
        losses.append(re.findall(r" loss: (\S+),", printed)[0])
    assert len(losses) == 3
    assert float(losses[1]) == pytest.approx(float(losses[0]), rel=1e-4)
    assert float(losses[2]) == pytest.approx(float(losses[0]), rel=1e-4)


def test_extras_of_the_readme() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    installs = [line for line in commands("README.md") if "pip install" in line]
    for extra in re.findall(r"\.\[(\w+)\]", " ".join(installs)):
        assert f"\n{extra} = [" in project
    assert any('"paddlepaddle-gpu>=3.3,<3.4"' in line for line in installs)
    assert 'gpu = ["paddlepaddle-gpu>=3.3,<3.4"]' in project


@pytest.mark.parametrize("page", ALL)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), target


def benchmark(name: str, *words: str | Path) -> str:
    """What a benchmark prints."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{name}.py", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path) -> None:
    options = ["--rounds", "1", "--steps", "1", "--shapes", "tiny"]
    said = benchmark("train_step", *options, "--json", tmp_path / "figures.json")
    assert "| llm_pretrain | bfloat16 |" in said
    assert (tmp_path / "figures.json").exists()


@pytest.mark.slow
def test_the_benchmark_of_layouts_runs() -> None:
    options = ["--rounds", "1", "--steps", "1", "--shape", "tiny", "--dtypes", "float32"]
    said = benchmark("layouts", *options)
    for layout in ("data parallel", "sharding stage 3", "tensor parallel", "pipeline"):
        assert f"| {layout}" in said


@pytest.mark.slow
def test_the_benchmark_of_data_runs(tmp_path: Path) -> None:
    options = ["--rounds", "1", "--documents", "10000", "--english", "1", "--chinese", "1"]
    benchmark("data", *options, "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert len(figures) == 5
    assert all(runs["llm_pretrain"] for runs in figures.values())


@pytest.mark.slow
def test_the_benchmark_of_saving_runs() -> None:
    options = ["--processes", "1,2", "--steps", "6", "--every", "2", "--shape", "tiny"]
    said = benchmark("saving", *options)
    assert said.count("| beside |") == said.count("| at once |") == 2


@pytest.mark.slow
def test_the_benchmark_of_checkpoints_runs(tmp_path: Path) -> None:
    options = ["--rounds", "1", "--shape", "tiny", "--folder", str(tmp_path)]
    said = benchmark("checkpoints", *options)
    assert "| the disk | 0.25 |" in said
    assert "| llm_pretrain | 0.25 |" in said


@pytest.mark.slow
def test_the_benchmark_of_collectives_runs() -> None:
    said = benchmark("collectives", "--processes", "2")
    assert said.count("shared memory") == said.count("Gloo") == 4
