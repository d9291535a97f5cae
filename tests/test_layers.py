"""Imports go down the list of layers and never up; what must start fast doesn't import Paddle."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "llm_pretrain"

# From the top down; a line's members may not import one another, except as EXTRA says.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"__main__"}),
    frozenset({"cli"}),
    frozenset({"launch"}),
    frozenset({"planning"}),
    frozenset({"training"}),
    frozenset({"checkpoint", "monitor"}),
    frozenset({"models", "data"}),
    frozenset({"parallel", "ops"}),
    frozenset({"config"}),
    frozenset({"machine"}),
)
# Parallel layers call the operators.
EXTRA = frozenset({("parallel", "ops")})
# The rooms of `parallel`, from the top down.
PARALLEL = ("pipeline", "layers", "sharding", "comm")
WITHOUT_PADDLE = (
    *("config", "data", "data.preprocess", "cli", "cli.check", "cli.plan", "launch.command"),
    *("cli.report", "cli.runs"),
    *("planning.prediction", "planning.program"),
)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def member_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_modules(path: Path) -> Iterator[str]:
    """Whole names of what a module imports, inside functions, too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: an import names its whole path"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_members(path: Path) -> Iterator[str]:
    """The members of the package that a module imports."""
    members = {member_of(module) for module in modules()}
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[0] == "llm_pretrain" and len(parts) > 1 and parts[1] in members:
            yield parts[1]


def level(member: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if member in layer)


def test_every_member_has_a_layer() -> None:
    known = frozenset().union(*LAYERS) | {"__init__"}
    assert {member_of(path) for path in modules()} == known


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    member = member_of(path)
    if member == "__init__":
        assert set(imported_members(path)) <= {"machine"}
        return
    for imported in imported_members(path):
        allowed = (
            imported == member or level(imported) > level(member) or (member, imported) in EXTRA
        )
        assert allowed, f"{path}: {member} may not import {imported}"


@pytest.mark.parametrize(
    "path",
    sorted((PACKAGE / "parallel").glob("*/*.py")),
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_imports_between_the_rooms_of_parallel_go_down(path: Path) -> None:
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[:2] == ["llm_pretrain", "parallel"]:
            assert PARALLEL.index(parts[2]) >= PARALLEL.index(path.parent.name), f"{path}: {name}"


def test_what_is_private_to_paddle_stands_in_one_file() -> None:
    calls = ("_slice", "_share_buffer_to", "_clear_data", "_is_initialized", "_set_dims")
    names = (*(rf"{call}\(" for call in calls), "_register_grad_hook", "_default_store")
    private = re.compile(rf"\.({'|'.join(names)}|_print_modified_flags)")
    found = {
        path.relative_to(PACKAGE)
        for path in modules()
        if private.search(path.read_text(encoding="utf-8"))
        or any(name.startswith("paddle.base") for name in imported_modules(path))
    }
    assert found == {Path("ops/internals.py")}


@pytest.mark.parametrize("member", WITHOUT_PADDLE)
def test_starts_without_paddle(member: str) -> None:
    heavy = ("paddle", "visualdl", "tokenizers", "sentencepiece", "rich", "torch")
    script = (
        f"import sys, llm_pretrain.{member}\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
