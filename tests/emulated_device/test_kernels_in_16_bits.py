"""In 16 bits products and reductions are summed in float32, and every result is rounded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.emulated_device.kernels_in_16_bits import CASES, DTYPES, EDGES, rounded
from tests.launching import run_job

SCRIPT = Path(__file__).with_name("kernels_in_16_bits.py")


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, device_environment: dict[str, str]
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("kernels")
    run_job(SCRIPT, folder / "results.npz", log_dir=folder, environment=device_environment)
    return dict(np.load(folder / "results.npz"))


def ordered(values: Any, dtype: str) -> Any:
    """16-bit values as integers in the same order, neighbours next to each other."""
    if dtype == "float16":
        bits = values.astype(np.float16).view(np.int16).astype(np.int32)
    else:
        bits = values.view(np.int32) >> 16
    return np.where(bits < 0, -0x8000 - bits, bits)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_rounds_once(name: str, dtype: str, results: dict[str, Any]) -> None:
    case, actual = CASES[name], results[f"{name} {dtype}"]
    expected = np.asarray(case.expect(*case.operands()), np.float32)
    assert actual.shape == expected.shape
    if "float32" in name:
        assert np.array_equal(actual, expected)
        return
    expected = rounded(expected, dtype)
    assert np.array_equal(actual, rounded(actual, dtype)), "values that the type does not have"
    off = np.abs(ordered(actual, dtype) - ordered(expected, dtype)).max()
    assert off <= case.steps


@pytest.mark.parametrize("dtype", DTYPES)
def test_cast_rounds_to_the_nearest_even(dtype: str, results: dict[str, Any]) -> None:
    assert np.array_equal(results[f"cast {dtype}"], rounded(EDGES, dtype), equal_nan=True)
