"""Where the tests find the environments of the programs that they compare with.

A test marked `peer_transformers`, `peer_paddlenlp`, `peer_megatron` or `trackers` takes the fixture
named `transformers_python` and so on, the path of a Python, and skips where that isn't set up
(`make peers` sets up all of them).
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a worker for each core: threads of one would stand in the others' way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Messages are in English whatever the locale, those of programs that the tests start, too.
os.environ["LLM_PRETRAIN_LANG"] = "en"

import llm_pretrain  # noqa: F401  its settings must precede any test's `import paddle`

ROOT = Path(__file__).parent.parent
# A job in a shell's background has this signal ignored; programs that the tests start hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_terminals_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are as wide as a test says, whatever libraries have left in the environment."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def transformers_python() -> Path:
    return _peer("transformers")


@pytest.fixture(scope="session")
def paddlenlp_python() -> Path:
    return _peer("paddlenlp")


@pytest.fixture(scope="session")
def megatron_python() -> Path:
    # Megatron needs PyTorch, so it shares an environment with transformers.
    return _peer("megatron", environment="transformers")


@pytest.fixture(scope="session")
def trackers_python() -> Path:
    return _peer("trackers")


def _peer(name: str, environment: str | None = None) -> Path:
    variable = f"LLM_PRETRAIN_{name.upper()}_PYTHON"
    folder = ROOT / f".venv-{environment or name}"
    python = Path(os.environ.get(variable) or folder / "bin" / "python")
    if not python.exists():
        pytest.skip(f"no environment of {name}: {python} is missing (make peers, or {variable})")
    return python
