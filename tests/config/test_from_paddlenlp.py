"""What docs/from_paddlenlp.md says of keys is what becomes of them."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.config import ConfigError, keys, load_run_config
from llm_pretrain.config.foreign_keys import SPELLINGS

ROOT = Path(__file__).parents[2]
PAGES = ("docs/from_paddlenlp.md", "docs/from_paddlenlp_zh.md")
PACKAGE = "lib/python*/site-packages/paddlenlp/trainer/training_args.py"
RUN = {"input_dir": "data", "output_dir": "out", "max_steps": 1, "do_train": True}


def tables(page: str) -> list[list[list[str]]]:
    """The rows of each table of the section on keys, without its head."""
    text = (ROOT / page).read_text(encoding="utf-8").split("\n## ")[1]
    found = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split(" |")] for line in table.splitlines()[2:]]
        for table in found
    ]


RENAMED, INERT, REFUSED, DEFAULTS = tables(PAGES[0])


def setting(cell: str) -> dict[str, Any]:
    """`key: value`, as in a configuration."""
    key, _, value = cell.strip("`").partition(": ")
    return {key: json.loads(value)}


def load(tmp_path: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(RUN | settings), encoding="utf-8")
    return load_run_config(path).notices


@pytest.mark.parametrize("row", RENAMED, ids=lambda row: row[0])
def test_another_name_is_read(row: list[str]) -> None:
    assert SPELLINGS[row[0].strip("`")] == row[1].strip("`")


@pytest.mark.parametrize("row", INERT, ids=lambda row: row[0])
def test_a_key_without_effect_is_a_notice(row: list[str], tmp_path: Path) -> None:
    settings = setting(row[0])
    (notice,) = load(tmp_path, settings)
    assert notice.startswith(f"{next(iter(settings))}: no effect here: ")


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row[0])
def test_what_is_another_training_is_an_error(row: list[str], tmp_path: Path) -> None:
    settings = setting(row[0])
    with pytest.raises(ConfigError, match=next(iter(settings))) as error:
        load(tmp_path, settings)
    key, told = next(iter(settings)), str(error.value)
    if key in keys.OWNER:
        possible = re.findall(r"`([\w-]+)`", row[1])
        assert possible
        assert all(f"'{value}'" in told for value in possible)


@pytest.mark.parametrize("row", DEFAULTS, ids=lambda row: row[0])
def test_the_default_is_ours(row: list[str]) -> None:
    key = row[0].strip("`")
    assert keys.field(key).default == json.loads(row[2].split(":")[0].split("：")[0])


def test_the_default_is_paddlenlps() -> None:
    """Of those that its trainer has; the others are its run_pretrain.py's and its models'."""
    for path in ROOT.glob(f".venv-paddlenlp/{PACKAGE}"):
        theirs: dict[str, str] = {}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call):
                for argument in node.value.keywords:
                    if argument.arg == "default":
                        theirs[ast.unparse(node.target)] = ast.unparse(argument.value)
        there = {row[0].strip("`"): json.loads(row[1]) for row in DEFAULTS}
        common = theirs.keys() & there.keys()
        assert common >= {"save_total_limit", "device", "use_async_save"}
        assert all(ast.literal_eval(theirs[key]) == there[key] for key in common)
        return
    pytest.skip("PaddleNLP is not installed (make peers)")


def test_both_languages_say_it_of_the_same_keys() -> None:
    def named(page: str) -> list[list[str]]:
        return [
            [row[0], *re.findall("`[^`]+`", row[-1])] for table in tables(page) for row in table
        ]

    assert named(PAGES[1]) == named(PAGES[0])
