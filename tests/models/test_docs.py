"""docs/models.md has every family, every size and every architecture that is tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm_pretrain.models.families import CAPABILITIES, FAMILIES, SEEDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| (`[^|]+`) \|$", PAGE, re.MULTILINE)
TRIALS = ("tiny/", "__internal_testing__/")


def test_every_family_is_there() -> None:
    for model_type, family in FAMILIES.items():
        module = type(family).__module__.replace(".", "/")
        assert f"`{module}.py`" in PAGE
        assert f"`{model_type}`" in PAGE


def test_every_row_of_the_capability_table_is_there() -> None:
    assert {row: seed.strip("`") for row, seed in ROWS if "tiny/" in seed} == CAPABILITIES


def test_every_name_is_there_with_its_size() -> None:
    sizes = {}
    for name, published in SEEDS.items():
        if not name.startswith(TRIALS):
            config = FAMILIES[published["model_type"]].read_config(published, name)
            sizes[name] = f"{config.parameter_count() / 1e9:.3f}"
    rows = [(size, names) for size, names in ROWS if "tiny/" not in names]
    assert {name: size for size, names in rows for name in re.findall("`(.+?)`", names)} == sizes


@pytest.mark.parametrize("page", ["models.md", "adding_a_family.md"])
def test_every_file_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    files = re.findall(r"`((?:tests|llm_pretrain)/[\w/]+(?:\.py|/))`", text)
    assert files
    assert [file for file in files if not (ROOT / file).exists()] == []
