"""Where the tests find the environments of the programs that they compare with.

A test marked `peer_transformers` or `peer_paddlenlp` takes the fixture of the same environment,
the path of its Python, and skips where that isn't set up (`make peers` sets up both).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import llm_pretrain  # noqa: F401  its settings must precede any test's `import paddle`

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def transformers_python() -> Path:
    return _peer("transformers")


@pytest.fixture(scope="session")
def paddlenlp_python() -> Path:
    return _peer("paddlenlp")


def _peer(name: str) -> Path:
    variable = f"LLM_PRETRAIN_{name.upper()}_PYTHON"
    python = Path(os.environ.get(variable) or ROOT / f".venv-{name}" / "bin" / "python")
    if not python.exists():
        pytest.skip(f"no environment of {name}: {python} is missing (make peers, or {variable})")
    return python
