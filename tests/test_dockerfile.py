"""The Dockerfile, without Docker: its files, its commands and its user."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
INDEX = "https://www.paddlepaddle.org.cn/packages/stable/cu126/"


def instructions() -> list[tuple[str, str]]:
    """(name, arguments) of each, in order, comments left out."""
    lines = [line for line in TEXT.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (name, rest.strip()) for name, _, rest in (x.partition(" ") for x in joined.split("\n"))
    ]


def all_of(name: str) -> list[str]:
    return [arguments for found, arguments in instructions() if found == name]


def copied(copies: list[str]) -> set[str]:
    """What is copied from the repository."""
    words = [shlex.split(copy) for copy in copies if "--from=" not in copy]
    return {word for copy in words for word in copy[:-1] if not word.startswith("--")}


def in_the_image() -> list[tuple[str, str]]:
    """The instructions of the last stage, which makes the image."""
    found = instructions()
    return found[max(i for i, (name, _) in enumerate(found) if name == "FROM") :]


def test_what_it_copies_is_there_and_nothing_else_is_sent_to_it() -> None:
    sources = copied(all_of("COPY"))
    assert all((ROOT / source).exists() for source in sources)
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == sources


def test_it_is_based_on_a_python_of_the_project() -> None:
    assert {base.split()[0] for base in all_of("FROM")} == {"python:3.11-slim"}
    assert 'requires-python = ">=3.10,<3.13"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("index", ["", INDEX])
def test_it_installs_what_the_readme_and_make_install(index: str, tmp_path: Path) -> None:
    """Its commands are run with a `python` that only tells its arguments."""
    told = tmp_path / "told"
    stand_in = tmp_path / "python"
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {shlex.quote(str(told))}\n')
    stand_in.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    assert all_of("ARG") == ["GPU_INDEX="]
    for command in all_of("RUN"):
        if command.startswith(("python ", "if ")):
            environment = {"PATH": path, "GPU_INDEX": index}
            subprocess.run(["sh", "-ec", command], env=environment, cwd=ROOT, check=True)
    installs = [line for line in told.read_text().splitlines() if "pip install" in line]
    locked = "-m pip install --constraint requirements/main.txt"
    if index:
        words = shlex.split(next(line for line in README.splitlines() if INDEX in line))
        assert installs[0] == " ".join(words[1:])
        assert installs[1] == f"{locked} .[preprocess]"
    else:
        assert installs[0] == f"{locked} .[cpu,preprocess]"
    assert installs[-1] == "-m pip install --no-deps ./external_ops"
    assert "external_ops/compile_cpu.py" in told.read_text()


def test_it_has_the_files_that_the_commands_of_the_readme_name() -> None:
    named = set(
        re.findall(r"(?<![\w./])(configs/[\w./-]+|scripts/[\w.]+|run_pretrain\.py)", README)
    )
    assert len(named) >= 4
    sources = copied([arguments for name, arguments in in_the_image() if name == "COPY"])
    assert {name.split("/")[0] for name in named} <= sources


def test_it_runs_without_the_rights_of_root() -> None:
    last = [name for name, _ in in_the_image()]
    (user,) = (arguments for name, arguments in in_the_image() if name == "USER")
    assert user.isdigit()
    assert int(user) > 0
    assert f"useradd --uid {user} " in TEXT
    assert last.index("USER") > max(i for i, name in enumerate(last) if name in ("RUN", "COPY"))


def test_it_fits_the_job_of_kubernetes() -> None:
    documents = yaml.safe_load_all((ROOT / "scripts/kubernetes.yaml").read_text(encoding="utf-8"))
    job = next(document for document in documents if document["kind"] == "Job")
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert ("WORKDIR", container["workingDir"]) in in_the_image()
    assert not all_of("ENTRYPOINT")
    (command,) = all_of("CMD")
    assert json.loads(command)[0] == "llm-pretrain"
