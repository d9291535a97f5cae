"""The examples of docs/configs.md are configurations that load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm_pretrain.config import load_run_config

PAGE = Path(__file__).parents[2] / "docs" / "configs.md"
EXAMPLES = re.findall(r"```(json|yaml)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize(("kind", "text"), EXAMPLES, ids=[kind for kind, _ in EXAMPLES])
def test_examples_load(tmp_path: Path, kind: str, text: str) -> None:
    path = tmp_path / f"run.{kind}"
    path.write_text(text, encoding="utf-8")
    assert load_run_config(path).notices == ()


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) == 2
