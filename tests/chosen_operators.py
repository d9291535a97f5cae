"""What a run says of its operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_pretrain.config import load_run_config
from llm_pretrain.training.agreement import choose_operators
from tests.small_runs import small_config, write_config


def said(folder: Path, **keys: Any) -> list[str]:
    """The lines of a run with a small config and these keys, which then has its operators."""
    config = small_config(folder / "model", folder / "data", folder / "out", **keys)
    lines: list[str] = []
    path = write_config(folder / "config.json", config)
    choose_operators(load_run_config(path), lines.append)
    return lines
