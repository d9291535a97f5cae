"""The examples of docs/configs.md load; the tables of docs/parallelism.md name what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm_pretrain.config import keys, load_run_config
from llm_pretrain.config.parallel_options import OPTIONS

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = re.findall(
    r"```(json|yaml)\n(.*?)```", (DOCS / "configs.md").read_text(encoding="utf-8"), re.DOTALL
)
PARALLELISM = (DOCS / "parallelism.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("kind", "text"), EXAMPLES, ids=[kind for kind, _ in EXAMPLES])
def test_examples_load(tmp_path: Path, kind: str, text: str) -> None:
    path = tmp_path / f"run.{kind}"
    path.write_text(text, encoding="utf-8")
    assert load_run_config(path).notices == ()


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) == 2


def table(header: str) -> list[list[str]]:
    """The cells of each row of the table of parallelism.md that begins so."""
    rows = PARALLELISM.split(f"| {header} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.parametrize("header", ["key | what is split", "key | must divide"])
def test_the_keys_of_a_table_exist(header: str) -> None:
    named = {key for row in table(header) for key in re.findall("`([a-z_]+)", row[0])}
    assert len(named) >= 4
    assert named <= set(keys.OWNER)


def test_the_table_of_options_names_those_with_an_effect() -> None:
    named: dict[str, set[str]] = {key: set() for key in OPTIONS}
    key = ""
    for cells in table("key | option"):
        key = cells[0].strip("`") or key
        named[key] |= set(re.findall("`([a-z0-9_]+)`", cells[1]))
    assert named == {key: set(options) for key, options in OPTIONS.items()}
