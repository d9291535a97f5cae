"""The CUDA operators on an emulated device."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest

from llm_pretrain.ops import dispatch
from llm_pretrain.ops.operator import set_compute_dtype
from tests.ops.cuda import emulated


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return emulated.loaded(emulated.build(tmp_path_factory.mktemp("cuda")))


@pytest.fixture
def cuda(built: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The operators, on a device where all of them are installed."""
    emulated.install(built, monkeypatch)
    built.calls.clear()
    yield built
    dispatch.use_references()
    set_compute_dtype("float32")
