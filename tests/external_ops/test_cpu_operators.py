"""The C library of csrc/cpu against float64, for every instruction set, twice the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.external_ops import cpu_checks
from tests.external_ops.cpu_library import (
    CpuLibrary,
    LibraryError,
    Mask,
    empty,
    exact,
    signatures,
    stored,
)

ROOT = Path(__file__).parents[2]
SUMS_OF_THREADS = {
    "norm": {"dweight", "dbias"},
    "linear_cross_entropy": {"largest", "sum", "target", "log_sums", "dx", "dweight"},
    "matmul": {"c"},
    "tiles": {"c"},
}
"""Results that may depend on the number of threads: rows are divided among them, and oneDNN may cut
the sums of its products, on one processor and not on another."""


@pytest.fixture(scope="module")
def path() -> Path:
    package = pytest.importorskip("llm_pretrain_ops", reason="not built: make ops")
    return package.cpu_library()


@pytest.fixture(scope="module")
def library(path: Path) -> CpuLibrary:
    return CpuLibrary(path)


@pytest.mark.parametrize("dtype", cpu_checks.BOUNDS)
@pytest.mark.parametrize("operator", cpu_checks.OPERATORS)
def test_results_and_gradients_of_random_shapes(
    library: CpuLibrary, operator: str, dtype: str
) -> None:
    for seed in range(6):
        cpu_checks.check(operator, cpu_checks.Draw(library, seed, dtype))


def run_checks(path: Path, instructions: str, onednn: str) -> subprocess.CompletedProcess[str]:
    environment = {"LLM_PRETRAIN_OPS_ISA": instructions, "ONEDNN_MAX_CPU_ISA": onednn}
    return subprocess.run(
        [sys.executable, "-m", "tests.external_ops.cpu_checks", str(path)],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("instructions", "onednn"), [("baseline", "SSE41"), ("avx2", "AVX2"), ("avx512", "AVX512_CORE")]
)
def test_processors_with_less_get_right_results(
    path: Path, library: CpuLibrary, instructions: str, onednn: str
) -> None:
    known = ["baseline", "avx2", "avx512", "amx"]
    if known.index(library.instructions()) < known.index(instructions):
        pytest.skip(f"this processor lacks {instructions}")
    run = run_checks(path, instructions, onednn)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"{instructions}: all")


def test_an_unknown_instruction_set_is_refused(path: Path) -> None:
    run = run_checks(path, "sse9", "DEFAULT")
    assert run.returncode == 1
    assert "LLM_PRETRAIN_OPS_ISA is sse9: baseline, avx2, avx512 and amx are known" in run.stderr


@pytest.mark.parametrize("dtype", cpu_checks.BOUNDS)
@pytest.mark.parametrize("operator", cpu_checks.OPERATORS)
def test_the_same_threads_give_the_same_bits(
    library: CpuLibrary, operator: str, dtype: str
) -> None:
    def results(threads: int) -> dict[str, bytes]:
        library.use_threads(threads)
        found, _ = cpu_checks.OPERATORS[operator](cpu_checks.Draw(library, 1, dtype))
        return {name: array.tobytes() for name, array in found.items()}

    usual = library.threads()
    try:
        one, first, second = results(1), results(3), results(3)
    finally:
        library.use_threads(usual)
    assert first == second
    for name in one.keys() - SUMS_OF_THREADS.get(operator, set()):
        assert one[name] == first[name], f"{name} depends on the number of threads"


class SpoiltDraw(cpu_checks.Draw):
    """Its operands begin with NaN."""

    def values(self, *shape: int, dtype: str | None = None) -> np.ndarray:
        array = super().values(*shape, dtype=dtype)
        array.reshape(-1)[0] = stored(np.full(1, np.nan), dtype or self.dtype)[0]
        return array


@pytest.mark.parametrize("dtype", cpu_checks.BOUNDS)
@pytest.mark.parametrize("operator", cpu_checks.OPERATORS)
def test_a_nan_is_not_hidden(library: CpuLibrary, operator: str, dtype: str) -> None:
    results, expected = cpu_checks.OPERATORS[operator](SpoiltDraw(library, 1, dtype))
    # The largest logit may pass over a NaN, which the sum then has.
    for name in results.keys() - {"largest"}:
        assert np.isnan(exact(results[name])).any() == np.isnan(expected[name]).any(), name


@pytest.mark.parametrize("spread", [1e-30, 1e4])
def test_a_softmax_of_extreme_scores_is_finite(library: CpuLibrary, spread: float) -> None:
    x = np.array([[1.0], [-1.0]], np.float32) * np.float32(spread)
    weight = np.linspace(-spread, spread, 300, dtype=np.float32)[None]
    largest, total, target = (empty(2, "float32") for _ in range(3))
    library("linear_log_sums", 2, 1, 300, x, "float32", weight, "float32", 300, False,
            np.array([0, 299]), largest, total, target)  # fmt: skip
    np.testing.assert_allclose(largest, np.float32(spread) ** 2, rtol=1e-6)
    assert (total >= 1).all()
    assert (total <= 300).all()


def test_a_product_over_one_value_is_written(library: CpuLibrary) -> None:
    a, b = np.arange(5, dtype=np.float32)[:, None], np.arange(1, 8, dtype=np.float32)[:, None]
    c = empty((5, 7), "float32")
    library("matmul", 5, 7, 1, a, False, b, True, "float32", None, c, "float32", False)
    assert np.array_equal(c, a * b.T)


def test_nothing_gives_nothing(library: CpuLibrary) -> None:
    none = np.zeros(0, np.float32)
    one, mask = np.ones(3, np.float32), Mask.of(None, None, None)
    dweight = empty(3, "float32")
    library("rms_norm", 0, 3, none, None, "float32", None, "float32", one, 1e-5, none, none)
    library("rms_norm_backward", 0, 3, none, none, "float32", one, none, None, none, dweight)
    assert not dweight.any()
    library("activation", 0, 0, none, None, "float32", none)
    library("rotary", 2, 0, 3, 4, 4, 1, none, "float32", none, none, 1, 1.0, none)
    library("flash_attention", 0, 8, 2, 1, 4, *3 * [none], "float32", mask, none, none)
    library("flash_attention", 2, 0, 2, 1, 4, *3 * [none], "float32", mask, none, none)
    library("flash_attention_backward", 0, 8, 2, 1, 4, *3 * [none], "float32", mask,
            *6 * [none])  # fmt: skip
    library("embedding_backward", 0, 1, 3, none, none, "float32", one.copy(), "float32", True)
    library("matmul", 0, 3, 2, none, False, one, False, "float32", None, none, "float32", False)


REFUSED = {
    "over nothing": ("rms_norm", 2, 0, None, *2 * [None, "float32"], None, 1e-5, None, None),
    "place for its sum": ("rms_norm", 2, 3, "x", "x", "float32", None, "float32", "x", 1e-5, "x",
                          "x"),
    "a negative count": ("adamw", -1, *4 * ["x"], "float32", None, *8 * [0.5]),
    "isn't positive": ("adamw", 1, *4 * ["x"], "float32", None, *6 * [0.5], 0.0, 1.0),
    "unknown activation": ("activation", 2, 9, "x", None, "float32", "x"),
    "place for its gradient": ("activation_backward", 2, 0, *3 * ["x"], "float32", "x", None),
    "pairs of halves": ("rotary", 1, 1, 1, 6, 6, 2, "x", "float32", "x", "x", 1, 1.0, "x"),
    "another batch": ("rotary", 3, 1, 1, 2, 2, 1, "x", "float32", "x", "x", 2, 1.0, "x"),
    "divide the query heads": ("flash_attention", 1, 1, 3, 2, 1, *3 * ["x"], "float32",
                               Mask.of(None, None, None), "x", "x"),
    "no mask": ("flash_attention", 1, 1, 1, 1, 1, *3 * ["x"], "float32", None, "x", "x"),
    "rows of the weight overlap": ("linear_log_sums", 1, 2, 9, "x", "float32", "x", "float32", 8,
                                   False, *4 * ["x"]),
    "neither float32 nor": ("linear_log_sums", 1, 2, 4, "x", "float32", "x", "bfloat16", 4, False,
                            *4 * ["x"]),
    "outside the table": ("embedding_backward", 1, 2, 3, "ids", "x", "float32", "x", "float32",
                          True),
    "result that is neither": ("matmul", 2, 2, 2, "x", False, "x", False, "float32", None, "x",
                               "bfloat16", False),
    "an unknown layout": ("matmul", 2, 2, 2, "x", False, "x", 3, "float32", None, "x", "float32",
                          False),
    "packed weights are for": ("matmul", 2, 2, 2, "x", False, "x", 2, "float32", None, "x",
                               "float32", False),
    "product of no size": ("pack", 2, 0, 2, "x", "float32", False, "x"),
    "a product": ("matmul", 2, -1, 2, "x", False, "x", False, "float32", None, "x", "float32",
                  False),
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_what_makes_no_sense_is_refused(library: CpuLibrary, words: str) -> None:
    places = {"x": np.ones(64, np.float32), "ids": np.array([2])}
    name, *arguments = REFUSED[words]
    arguments = [places.get(x, x) if isinstance(x, str) else x for x in arguments]
    with pytest.raises(LibraryError, match=words):
        library(str(name), *arguments)


def test_memory_is_lent(library: CpuLibrary) -> None:
    cpu_checks.check_memory(library, seed=1)


def test_python_calls_what_the_header_declares() -> None:
    import llm_pretrain.ops
    import llm_pretrain.parallel.comm.shared_memory  # noqa: F401
    from llm_pretrain.ops.native import library as native

    assert signatures() == native.SIGNATURES
