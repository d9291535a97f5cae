"""Products of float32 on matrix tiles, which multiply bfloat16: as float32 as any."""

from __future__ import annotations

import numpy as np
import pytest

from tests.external_ops import cpu_checks
from tests.external_ops.cpu_library import CpuLibrary, empty, exact


@pytest.fixture(scope="module")
def library() -> CpuLibrary:
    package = pytest.importorskip("llm_pretrain_ops", reason="not built: make ops")
    library = CpuLibrary(package.cpu_library())
    if library.instructions() != "amx":
        pytest.skip("this processor has no tiles for bfloat16")
    return library


def product(library: CpuLibrary, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    (m, k), n = a.shape, b.shape[1]
    c = empty((m, n), "float32")
    library("matmul", m, n, k, a, False, b, False, "float32", None, c, "float32", False)
    return c


def operands(kind: str, m: int = 256, n: int = 512, k: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(7)

    def draw(*shape: int) -> np.ndarray:
        x = random.standard_normal(shape)
        if kind == "of one sign":
            x = np.abs(x)
        if kind == "of many sizes":
            x = x * np.exp2(random.integers(-20, 21, shape))
        return x.astype(np.float32)

    return draw(m, k), draw(k, n)


@pytest.mark.parametrize("seed", range(8))
def test_random_shapes(library: CpuLibrary, seed: int) -> None:
    """In blocks that are cut at every edge, transposed or not, with and without bias and sum."""
    cpu_checks.check("tiles", cpu_checks.Draw(library, seed, "float32"))


@pytest.mark.parametrize("kind", ["normal", "of one sign", "of many sizes"])
def test_errors_are_no_larger_than_float32s(library: CpuLibrary, kind: str) -> None:
    a, b = operands(kind)
    correct, scale = exact(a) @ exact(b), np.abs(exact(a)) @ np.abs(exact(b))
    ours = (product(library, a, b) - correct) / scale
    theirs = (a @ b - correct) / scale
    assert np.sqrt(np.mean(ours**2)) < 1.25 * np.sqrt(np.mean(theirs**2))
    assert np.abs(ours).max() < 1.5 * np.abs(theirs).max()


def test_no_bit_of_a_number_is_lost(library: CpuLibrary) -> None:
    a, _ = operands("of many sizes", k=256)
    b = np.eye(256, 512, dtype=np.float32)
    found = product(library, np.tile(a, (4, 1)), b)
    assert np.array_equal(found, np.tile(a, (4, 2)) * (np.arange(512) < 256))


@pytest.mark.parametrize("size", [1e-38, 1e-30])
def test_the_smallest_numbers_count(library: CpuLibrary, size: float) -> None:
    """Below 2⁻¹⁰⁰ by their leading bits, with an error of 2⁻¹²⁶ each at most."""
    a, b = operands("normal")
    a = (a * size).astype(np.float32)
    correct = exact(a) @ exact(b)
    bound = a.shape[1] * 2.0**-126 * np.abs(b).max() + 1e-5 * np.abs(correct).max()
    assert np.abs(product(library, a, b) - correct).max() < bound


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, np.finfo(np.float32).max])
@pytest.mark.parametrize("side", [0, 1])
def test_what_has_no_parts_is_multiplied_all_the_same(
    library: CpuLibrary, value: float, side: int
) -> None:
    pair = operands("normal")
    pair[side][200, 300] = value
    pair[1 - side].flat[:] = np.abs(pair[1 - side]) / 4096
    found, expected = product(library, *pair), pair[0] @ pair[1]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_products_that_float32_just_holds_are_finite(library: CpuLibrary) -> None:
    """Rounded to bfloat16 both numbers are 2⁶⁴, and their product is too large."""
    a, b = (np.zeros(shape, np.float32) for shape in ((256, 1500), (1500, 512)))
    a[:, 0] = a[:, 900] = b[0] = np.float32(2.0**64 * (1 - 2.0**-24))
    b[900] = -b[0]
    assert not product(library, a, b).any()
    b[900] = 0
    np.testing.assert_array_equal(product(library, a, b), a[0, 0] * b[0, 0])


def test_any_number_of_threads_gives_the_same_bits(library: CpuLibrary) -> None:
    a, b = operands("normal", m=1100, n=700, k=1200)
    usual = library.threads()
    try:
        results = []
        for threads in (1, 2, 5):
            library.use_threads(threads)
            results.append(product(library, a, b).tobytes())
    finally:
        library.use_threads(usual)
    assert len(set(results)) == 1


def test_products_of_both_types_take_turns(library: CpuLibrary) -> None:
    """oneDNN lays out the tiles, too, for its own products of bfloat16."""
    for seed in range(3):
        cpu_checks.check("tiles", cpu_checks.Draw(library, seed, "float32"))
        cpu_checks.check("tiles", cpu_checks.Draw(library, seed, "bfloat16"))
