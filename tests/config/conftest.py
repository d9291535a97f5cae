from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import pytest

from llm_pretrain.config import ConfigError, RunConfig, load_run_config

MINIMUM: dict[str, Any] = {
    "output_dir": "output",
    "input_dir": "data",
    "max_steps": 100,
    "do_train": True,
}


class Load(Protocol):
    def __call__(self, *overrides: str, **values: Any) -> RunConfig: ...


class Problems(Protocol):
    def __call__(self, *overrides: str, **values: Any) -> list[str]: ...


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads the least that a run needs, changed by `values` in the file and `overrides` beside."""

    def run(*overrides: str, **values: Any) -> RunConfig:
        path = tmp_path / "run.json"
        path.write_text(json.dumps(MINIMUM | values, indent=1), encoding="utf-8")
        return load_run_config(path, overrides)

    return run


@pytest.fixture
def problems(load: Load) -> Problems:
    """The problems of what `load` would load; [] if there is none."""

    def run(*overrides: str, **values: Any) -> list[str]:
        try:
            load(*overrides, **values)
        except ConfigError as error:
            return list(error.problems)
        return []

    return run
