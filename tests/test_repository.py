"""What the repository's files may not hold."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OWN = Path(__file__).name

FORBIDDEN = {
    "a host that serves packages": re.compile(
        r"pypi|pythonhosted|tuna\.tsinghua|mirrors\.|download\.pytorch|--(extra-)?index-url|find-links"
    ),
    "a path of one machine": re.compile(r"(?<![\w.])/(root|home|work|opt|Users)/\w"),
    "an address of a private network": re.compile(r"\b192\.168\.\d+\.\d+|\b10\.\d+\.\d+\.\d+"),
}
# GPU builds of Paddle are on Paddle's own index, which the README has to name.
ALLOWED = re.compile(r"https://www\.paddlepaddle\.org\.cn/packages/\S+")


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: git lists the files")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file() and path.name != OWN]


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = []
    for path in tracked():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, start=1):
            for what, pattern in FORBIDDEN.items():
                if pattern.search(ALLOWED.sub("", line)):
                    found.append(f"{path.relative_to(ROOT)}, line {number}: {what}: {line.strip()}")
    assert not found, "\n".join(found)


def test_locks_hold_exact_versions_for_every_python() -> None:
    for lock in sorted((ROOT / "requirements").glob("*.txt")):
        for line in lock.read_text(encoding="utf-8").splitlines():
            requirement = line.split(";")[0].strip()
            assert line.startswith("#") or re.fullmatch(r"[\w.\-]+==[\w.+]+", requirement), line


def test_no_module_is_long() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in tracked()
        if path.suffix == ".py" and path.is_relative_to(ROOT / "llm_pretrain")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 500
    }
    assert not long


def test_files_that_the_docs_name_are_there() -> None:
    named = re.compile(r"`((?:llm_pretrain|tests|benchmarks|scripts|external_ops)/[\w/]+\.\w+)`")
    missing = {
        f"{page.name}: {name}"
        for page in tracked()
        if page.suffix == ".md"
        for name in named.findall(page.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    }
    assert not missing
