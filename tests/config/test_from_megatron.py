"""The table of docs/from_megatron.md: its keys, its defaults and its example."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.config import keys, load_run_config, plan_batches, resolve_degrees
from llm_pretrain.config.parallel_options import OPTIONS

ROOT = Path(__file__).parents[2]
PAGES = ("docs/from_megatron.md", "docs/from_megatron_zh.md")
PAGE = (ROOT / PAGES[0]).read_text(encoding="utf-8")
CORE = "lib/python*/site-packages/megatron/core"
NAMES = {"linear": "linear", "cosine": "cosine", "adam": "adamw", "": ""}
"""Values that have another name here, or the same."""


def rows(page: str) -> list[list[str]]:
    """Flag, key, default and remark, as they stand."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = re.findall(r"^\| `--[^|]* \| `[^|]* \|[^|]* \|[^|]*\|$", text, flags=re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines]


ROWS = rows(PAGES[0])
KEY_OF = {re.findall(r"`(--[a-z0-9-]+)", row[0])[0]: row[1].strip("`") for row in ROWS}


def value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def test_every_key_exists() -> None:
    assert len(ROWS) > 50
    assert all(len(row) == 4 for row in ROWS)
    assert {row[1].strip("`") for row in ROWS} <= set(keys.OWNER)
    options = {name for names in OPTIONS.values() for name in names}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        named = set(re.findall(r"`([a-z0-9]+(?:_[A-Za-z0-9]+)+)(?:: [^`]*)?`", text))
        assert len(named) > 40
        # Values, Megatron's strategies, and fields of the log.
        others = {"inverse_sqrt", "warmup_stable_decay", "minus_sqrt", "core_attn", "skip_update"}
        others |= {"optim_grads", "optim_grads_params", "megatron_flags"}
        others |= {"loss_scale", "global_norm", "step_seconds", "consumed_samples", "skipped_steps"}
        assert named - set(keys.OWNER) - options - others == set()


@pytest.mark.parametrize("row", [row for row in ROWS if row[2]], ids=lambda row: row[1])
def test_the_default_is_ours(row: list[str]) -> None:
    ours = row[2].split(" → ")[-1]
    assert keys.field(row[1].strip("`")).default in (value(ours), NAMES.get(ours))


def test_the_default_is_megatrons() -> None:
    """Those that are in its library; the others are in programs that it has not."""
    found: dict[str, Any] = {}
    for name in ("optimizer/optimizer_config.py", "model_parallel_config.py"):
        for path in ROOT.glob(f".venv-transformers/{CORE}/{name}"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.AnnAssign) and node.value is not None:
                    text = ast.unparse(node.value).replace("2 ** 32", str(2**32))
                    found[f"--{ast.unparse(node.target).replace('_', '-')}"] = text
    if not found:
        pytest.skip("megatron-core is not installed (make peers)")
    checked = 0
    for row in ROWS:
        flag = row[0].strip("`")
        # What the library leaves open its programs fill in.
        if row[2] and found.get(flag, "None") != "None":
            theirs = value(row[2].split(" → ")[0])
            assert theirs == value(found[flag].lower()), flag
            checked += 1
    assert checked >= 7


def test_the_example_says_the_same_twice(tmp_path: Path) -> None:
    command = PAGE.split("```text\n")[1].split("```")[0]
    text = PAGE.split("```json\n")[1].split("```")[0]
    path = tmp_path / "run.json"
    path.write_text(text, encoding="utf-8")
    run = load_run_config(path)
    assert run.notices == ()
    command = command.split("pretrain_gpt.py")[1]
    given = re.findall(r"(--[a-z0-9-]+)(?: \"([^\"]+)\"| ([^-\s]\S*))?", command)
    flags = {name: value(quoted or word) for name, quoted, word in given if name in KEY_OF}
    assert len(flags) == len(given)
    written = json.loads(text)
    batch = flags.pop("--global-batch-size")
    assert flags.pop("--use-distributed-optimizer") == ""
    assert written["sharding"] == "stage1"
    for flag, expected in flags.items():
        assert written[KEY_OF[flag]] == (True if expected == "" else expected), flag
    degrees = resolve_degrees(run.training, 8)
    assert plan_batches(run, degrees).samples_per_step == batch


@pytest.mark.parametrize("page", PAGES)
def test_the_flags_of_megatrons_scripts_are_on_the_page(page: str) -> None:
    lines = (ROOT / "tests/config/megatron_flags.txt").read_text(encoding="utf-8").splitlines()
    flags = " ".join(line for line in lines if not line.startswith("#")).split()
    assert len(flags) > 100
    tables = re.findall(
        r"^\| (`--[^|]*) \|", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE
    )
    assert set(flags) - set(re.findall(r"`(--[a-z0-9-]+)", " ".join(tables))) == set()


def test_both_languages_name_the_same_flags_keys_and_defaults() -> None:
    assert [row[:3] for row in rows(PAGES[1])] == [row[:3] for row in ROWS]
