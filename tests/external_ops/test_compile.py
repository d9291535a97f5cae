"""csrc/cpu is compiled by all cores, file by file, and only where something has changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXTERNAL_OPS = Path(__file__).parents[2] / "external_ops"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """compile_cpu.py over sources of one line, with headers that need no network."""
    (tmp_path / "csrc/cpu").mkdir(parents=True)
    (tmp_path / "build/onednn-devel==2025.0.1").mkdir(parents=True)
    shutil.copy(EXTERNAL_OPS / "compile_cpu.py", tmp_path)
    (tmp_path / "csrc/cpu/number.h").write_text("#define NUMBER 7\n")
    for name in ("a", "b", "c"):
        source = f'#include "number.h"\nextern "C" int {name}() {{ return NUMBER; }}\n'
        (tmp_path / f"csrc/cpu/{name}.cc").write_text(source)
    for path in tmp_path.rglob("*"):
        os.utime(path, (1, 1))
    return tmp_path


def compile_in(package: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, package / "compile_cpu.py"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_progress_and_what_is_compiled_anew(package: Path) -> None:
    assert compile_in(package).stdout.splitlines() == [
        f"operators in C++: {count} of 3 files compiled" for count in (1, 2, 3)
    ]
    assert compile_in(package).stdout == ""
    (package / "csrc/cpu/b.cc").touch()
    assert compile_in(package).stdout == "operators in C++: 1 of 1 files compiled\n"
    (package / "csrc/cpu/number.h").touch()
    assert "3 of 3" in compile_in(package).stdout
    assert "3 of 3" in compile_in(package, CXXFLAGS="-O0").stdout, "other flags, other objects"


def test_what_the_compiler_says_is_shown(package: Path) -> None:
    (package / "csrc/cpu/b.cc").write_text("int f( {\n")
    failed = compile_in(package)
    assert failed.returncode == 1
    assert "b.cc:1" in failed.stderr
    assert "Traceback" not in failed.stderr
    missing = compile_in(package, CXX="no-such-compiler")
    assert missing.returncode == 1
    assert "no-such-compiler" in missing.stderr
    assert "Traceback" not in missing.stderr
