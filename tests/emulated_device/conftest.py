"""The environment of a process that has the emulated device."""

from __future__ import annotations

import pytest

from tests.emulated_device.compile_plugin import compiler, environment


@pytest.fixture(scope="session")
def device_environment() -> dict[str, str]:
    if compiler() is None:
        pytest.skip("no C++ compiler for the emulated device (CXX or g++)")
    return environment()
