"""Products of float32, on matrix tiles of bfloat16 where there are some: as float32 as any.

Where there are none, oneDNN's products are held to the same.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.external_ops import cpu_checks
from tests.external_ops import cpu_references as references
from tests.external_ops.cpu_library import CpuLibrary, Mask, empty, exact

UNIT = 2.0**-24
"""What float32 rounds by at most, as a part of the number."""


@pytest.fixture(scope="module")
def path() -> Path:
    package = pytest.importorskip("llm_pretrain_ops", reason="not built: make ops")
    return package.cpu_library()


@pytest.fixture(scope="module")
def library(path: Path) -> CpuLibrary:
    return CpuLibrary(path)


@pytest.fixture(scope="module")
def tiles(library: CpuLibrary) -> CpuLibrary:
    if library.instructions() != "amx":
        pytest.skip("this processor has no tiles for bfloat16")
    return library


@pytest.fixture
def onednn(
    tiles: CpuLibrary, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CpuLibrary:
    """The library once more, which leaves float32 to oneDNN: each copy of its file chooses anew."""
    monkeypatch.setenv("LLM_PRETRAIN_OPS_ISA", "avx512")
    library = CpuLibrary(Path(shutil.copy2(path, tmp_path)))
    assert library.instructions() == "avx512"
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


def one_after_another(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product as float32 is defined: each product is rounded, and each sum, in order.

    The same bits on every machine, as a BLAS doesn't give.
    """
    c = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for column, row in zip(a.T, b, strict=True):
        c += column[:, None] * row
    return c


def errors(c: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each element, as a part of the sum of its products' sizes."""
    return (c - exact(a) @ exact(b)) / (np.abs(exact(a)) @ np.abs(exact(b)))


def root_mean_square(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


KINDS = pytest.mark.parametrize("kind", ["normal", "of one sign", "of many sizes"])


@KINDS
def test_errors_are_no_larger_than_float32s(library: CpuLibrary, kind: str) -> None:
    """k roundings of a UNIT, as often up as down, come to √k of them (Higham and Mary, 2019)."""
    a, b = operands(kind)
    ours = errors(product(library, a, b), a, b)
    assert root_mean_square(ours) <= root_mean_square(errors(one_after_another(a, b), a, b))
    assert np.abs(ours).max() <= np.sqrt(a.shape[1]) * UNIT


@KINDS
def test_errors_on_tiles_are_about_onednns(
    tiles: CpuLibrary, onednn: CpuLibrary, kind: str
) -> None:
    """oneDNN adds up blocks that suit the processor's caches, the smaller, the better."""
    a, b = operands(kind)
    ours, theirs = (errors(product(library, a, b), a, b) for library in (tiles, onednn))
    assert root_mean_square(ours) < 3 * root_mean_square(theirs)


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
    found, expected = product(library, *pair), exact(pair[0]) @ exact(pair[1])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_products_that_float32_just_holds_are_finite(library: CpuLibrary) -> None:
    """Rounded to bfloat16 both numbers are 2⁶⁴, and their product is too large.

    Where products are added without being rounded first, half a unit of one is left.
    """
    a, b = (np.zeros(shape, np.float32) for shape in ((256, 1500), (1500, 512)))
    a[:, 0] = a[:, 900] = b[0] = np.float32(2.0**64 * (1 - 2.0**-24))
    b[900] = -b[0]
    assert np.abs(product(library, a, b)).max() <= UNIT * float(a[0, 0]) ** 2
    b[900] = 0
    np.testing.assert_array_equal(product(library, a, b), a[0, 0] * b[0, 0])


def test_any_number_of_threads_gives_the_same_bits(tiles: CpuLibrary) -> None:
    a, b = operands("normal", m=1100, n=700, k=1200)
    usual = tiles.threads()
    try:
        results = []
        for threads in (1, 2, 5):
            tiles.use_threads(threads)
            results.append(product(tiles, a, b).tobytes())
    finally:
        tiles.use_threads(usual)
    assert len(set(results)) == 1


def test_products_of_both_types_take_turns(library: CpuLibrary) -> None:
    """oneDNN lays out the tiles, too, for its own products of bfloat16."""
    for seed in range(3):
        cpu_checks.check("tiles", cpu_checks.Draw(library, seed, "float32"))
        cpu_checks.check("tiles", cpu_checks.Draw(library, seed, "bfloat16"))


def test_attention_takes_what_has_no_parts(library: CpuLibrary) -> None:
    """Values and gradients of 2⁶³ and more leave the tiles."""
    random = np.random.default_rng(3)
    B, S, N, D = 1, 300, 2, 40
    q, k, v, dy = random.standard_normal((4, B, S, N, D)).astype(np.float32)
    v[0, 290:, 0] *= 2.0**70
    dy[0, 290:, 1] *= 2.0**70
    results = {"y": np.empty_like(q), "log_sums": empty((B, N, S), "float32")}
    results |= {name: np.empty_like(q) for name in ("dq", "dk", "dv")}
    shape = (B, S, N, N, D, q, k, v, "float32", Mask.of(None, None, None))
    library("flash_attention", *shape, results["y"], results["log_sums"])
    library("flash_attention_backward", *shape, results["y"], results["log_sums"], dy,
            *(results[name] for name in ("dq", "dk", "dv")))  # fmt: skip
    expected = references.attention(exact(q), exact(k), exact(v), None, None, None, exact(dy))
    for name in ("y", "dq", "dk", "dv"):
        for head in range(N):
            ours, theirs = results[name][0, :, head], expected[name][0, :, head]
            np.testing.assert_allclose(ours, theirs, atol=3e-5 * np.abs(theirs).max())
