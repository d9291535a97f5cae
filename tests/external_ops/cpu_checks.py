"""Checks every operator of the C library against float64 on random shapes.

    python -m tests.external_ops.cpu_checks LIBRARY [--seeds 3]

Needs NumPy alone, so that it can run under a sanitizer. Ends with status 1 at the first wrong
result.
"""

from __future__ import annotations

import argparse
import ctypes
import math
from collections.abc import Callable
from ctypes import c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from tests.external_ops import cpu_references as references
from tests.external_ops.cpu_library import CpuLibrary, Mask, empty, exact, stored

BOUNDS = {"float32": 4e-6, "bfloat16": 1e-2}
"""Of the largest value of a result: float32 rounds by 2⁻²⁴ and sums in float32, bfloat16 by 2⁻⁹,
and in attention and in the head's gradients a second time before a product."""


class Draw:
    """Random shapes and values for one case."""

    def __init__(self, library: CpuLibrary, seed: int, dtype: str) -> None:
        self.library, self.dtype = library, dtype
        self.random = np.random.default_rng(seed)

    def size(self, most: int) -> int:
        return int(self.random.integers(1, most + 1))

    def chance(self) -> bool:
        return bool(self.random.random() < 0.5)

    def values(self, *shape: int, dtype: str | None = None) -> ndarray:
        return stored(self.random.standard_normal(shape), dtype or self.dtype)

    def empty(self, *shape: int) -> ndarray:
        return empty(shape, self.dtype)


Results = dict[str, ndarray]


def norm(draw: Draw) -> tuple[Results, Results]:
    R, H = draw.size(60), draw.size(700)
    x, dy = draw.values(R, H), draw.values(R, H)
    residual_dtype = "float32" if draw.chance() else draw.dtype
    residual = draw.values(R, H, dtype=residual_dtype) if draw.chance() else None
    dsum = draw.values(R, H) if draw.chance() else None
    weight, bias = draw.values(H, dtype="float32"), None
    total = x if residual is None else draw.empty(R, H)
    y, dx = draw.empty(R, H), draw.empty(R, H)
    inverse, dweight = empty(R, "float32"), empty(H, "float32")
    head = (R, H, x, residual, residual_dtype, total, draw.dtype, weight)
    results = {"sum": total, "y": y, "inverse": inverse, "dx": dx, "dweight": dweight}
    if draw.chance():
        bias = draw.values(H, dtype="float32")
        results |= {"mean": empty(R, "float32"), "dbias": empty(H, "float32")}
        draw.library("layer_norm", *head, bias, 1e-5, y, results["mean"], inverse)
        draw.library("layer_norm_backward", R, H, dy, total, draw.dtype, weight, results["mean"],
                     inverse, dsum, dx, dweight, results["dbias"])  # fmt: skip
    else:
        draw.library("rms_norm", *head, 1e-5, y, inverse)
        draw.library("rms_norm_backward", R, H, dy, total, draw.dtype, weight, inverse, dsum, dx,
                     dweight)  # fmt: skip
    rounded = exact(total)  # what is normalised is the sum as it is kept
    expected = references.norm(
        rounded, None, exact(weight), None if bias is None else exact(bias), 1e-5, exact(dy),
        None if dsum is None else exact(dsum),
    )  # fmt: skip
    if residual is not None:
        expected["sum"] = exact(x) + exact(residual)
    return results, expected


def activation(draw: Draw) -> tuple[Results, Results]:
    kinds = ("silu", "gelu", "gelu_tanh", "relu")
    number, count = int(draw.random.integers(4)), draw.size(9000)
    x, dy = stored(3 * draw.random.standard_normal(count), draw.dtype), draw.values(count)
    up = draw.values(count) if draw.chance() else None
    results = {"y": draw.empty(count), "dx": draw.empty(count)}
    if up is not None:
        results["dup"] = draw.empty(count)
    draw.library("activation", count, number, x, up, draw.dtype, results["y"])
    draw.library("activation_backward", count, number, dy, x, up, draw.dtype, results["dx"],
                 results.get("dup"))  # fmt: skip
    gate = None if up is None else exact(up)
    return results, references.activation(kinds[number], exact(x), gate, exact(dy))


def rotary(draw: Draw) -> tuple[Results, Results]:
    B, S, N, half, spans = (draw.size(most) for most in (3, 40, 5, 9, 4))
    turned = 2 * half * spans
    D = turned + draw.size(9) - 1
    x, table_batch = draw.values(B, S, N, D), B if draw.chance() else 1
    angles = np.repeat(draw.random.random((table_batch, S, spans, 1, half)), 2, axis=3)
    angles = angles.reshape(table_batch, S, turned)
    cos, sin = stored(np.cos(angles), "float32"), stored(np.sin(angles), "float32")
    sign, y = 1.0 if draw.chance() else -1.0, draw.empty(B, S, N, D)
    draw.library("rotary", B, S, N, D, turned, spans, x, draw.dtype, cos, sin, table_batch, sign, y)
    return {"y": y}, references.rotary(exact(x), exact(cos), exact(sin), spans, sign)


def attention(draw: Draw) -> tuple[Results, Results]:
    B, S, K, group, D = (draw.size(most) for most in (2, 400, 2, 3, 40))
    N = K * group
    q, dy, k, v = (draw.values(B, S, heads, D) for heads in (N, N, K, K))
    prefix_ends = None
    if draw.chance():
        ends = draw.random.integers(0, S + 1, (B, S)) * (draw.random.random((B, S)) < 0.02)
        prefix_ends = np.maximum.accumulate(ends, axis=1)
    # Later keys, which a prefix shows, have scores that grow with their distance and, in float32,
    # lose as many digits: there slopes are small.
    steepest = 1 if prefix_ends is None else 1 / 64
    slopes = stored(steepest * draw.random.random(N), "float32") if draw.chance() else None
    starts = None
    if draw.chance():
        begins = np.where(draw.random.random((B, S)) < 0.02, np.arange(S), 0)
        starts = np.maximum.accumulate(begins, axis=1)
    mask, log_sums = Mask.of(slopes, prefix_ends, starts), empty((B, N, S), "float32")
    results = {"y": np.empty_like(q), "log_sums": log_sums}
    results |= {"dq": np.empty_like(q), "dk": np.empty_like(k), "dv": np.empty_like(v)}
    shape = (B, S, N, K, D, q, k, v, draw.dtype, mask, results["y"], log_sums)
    draw.library("flash_attention", *shape)
    draw.library("flash_attention_backward", *shape, dy, *(results[x] for x in ("dq", "dk", "dv")))
    return results, references.attention(
        exact(q), exact(k), exact(v), slopes, prefix_ends, starts, exact(dy)
    )


def linear_cross_entropy(draw: Draw) -> tuple[Results, Results]:
    # With so many rows the vocabulary is cut into chunks of 256.
    R, H, V = (draw.size(60), draw.size(50), draw.size(700)) if draw.chance() else (16400, 3, 300)
    spare, transposed = draw.size(9) - 1, draw.chance()
    weight_dtype = "float32" if draw.chance() else draw.dtype
    whole = stored(draw.random.standard_normal((H, V + spare)) / math.sqrt(H), weight_dtype)
    used = exact(whole)[:, :V].astype(np.float32)
    kept = np.ascontiguousarray(whole.T) if transposed else whole
    x, labels = draw.values(R, H), draw.random.integers(-1, V + 1, R)
    factors = draw.values(R, dtype="float32")
    largest, total, target = (empty(R, "float32") for _ in range(3))
    head = (R, H, V, x, draw.dtype, kept, weight_dtype, kept.shape[1], transposed, labels)
    draw.library("linear_log_sums", *head, largest, total, target)
    log_sums = (largest + np.log(total)).astype(np.float32)
    dx, before = empty((R, H), "float32"), draw.values(*kept.shape, dtype="float32")
    dkept = before.copy()
    draw.library("linear_cross_entropy_backward", *head, log_sums, factors, dx, dkept, True)
    dweight = dkept - before
    dweight = dweight.T if transposed else dweight
    assert not dweight[:, V:].any(), "the gradient of what is no token"
    results = {"largest": largest, "sum": total, "target": target, "log_sums": log_sums, "dx": dx,
               "dweight": dweight[:, :V]}  # fmt: skip
    rounded = exact(stored(used, draw.dtype))
    return results, references.linear_cross_entropy(exact(x), rounded, labels, exact(factors))


def matmul(draw: Draw) -> tuple[Results, Results]:
    # From 512 rows on, operands of bfloat16 are packed for the product.
    return product(draw, draw.size(90) + 511 * draw.chance(), draw.size(90), draw.size(90))


def tiles(draw: Draw) -> tuple[Results, Results]:
    """A product of sizes that matrix tiles multiply, where there are some."""
    return product(draw, 299 + draw.size(900), 299 + draw.size(300), 299 + draw.size(900))


def product(draw: Draw, M: int, N: int, K: int) -> tuple[Results, Results]:
    a, b = draw.values(M, K), draw.values(K, N)
    expected = exact(a) @ exact(b)
    a_transposed, b_transposed = draw.chance(), draw.chance()
    left, right = (
        np.ascontiguousarray(x.T) if turned else x
        for x, turned in ((a, a_transposed), (b, b_transposed))
    )
    bias = draw.values(N, dtype="float32") if draw.chance() else None
    if bias is not None:
        expected = expected + exact(bias)
    c_dtype, accumulate = "float32" if draw.chance() else draw.dtype, draw.chance()
    c = draw.values(M, N, dtype=c_dtype) if accumulate else empty((M, N), c_dtype)
    if accumulate:
        expected = expected + exact(c)
    layout = int(b_transposed)
    if draw.dtype == "bfloat16" and draw.chance():
        right, layout = packed(draw.library, (M, N, K), right, b_transposed)
    draw.library("matmul", M, N, K, left, a_transposed, right, layout, draw.dtype, bias, c, c_dtype,
                 accumulate)  # fmt: skip
    return {"c": c}, {"c": expected}


def packed(
    library: CpuLibrary, sizes: tuple[int, int, int], weight: ndarray, transposed: bool
) -> tuple[ndarray, int]:
    """A weight in the order that products read, and its layout; itself where they read any."""
    size = np.zeros(1, np.int64)
    library("packed_bytes", *sizes, size)
    if not size[0]:
        return weight, int(transposed)
    result = np.zeros(size[0], np.uint8)
    library("pack", *sizes, weight, "bfloat16", transposed, result)
    return result, 2


def embedding(draw: Draw) -> tuple[Results, Results]:
    count, entries, H = draw.size(300), draw.size(50), draw.size(70)
    ids, dy = draw.random.integers(0, entries, count), draw.values(count, H)
    table_dtype, accumulate = "float32" if draw.chance() else draw.dtype, draw.chance()
    dtable = empty((entries, H), table_dtype)
    expected = np.zeros((entries, H))
    if accumulate:
        dtable = draw.values(entries, H, dtype=table_dtype)
        expected = exact(dtable)
    np.add.at(expected, ids, exact(dy))
    draw.library("embedding_backward", count, entries, H, ids, dy, draw.dtype, dtable, table_dtype,
                 accumulate)  # fmt: skip
    return {"dtable": dtable}, {"dtable": expected}


def add(draw: Draw) -> tuple[Results, Results]:
    count, other_dtype = draw.size(40000), "float32" if draw.chance() else draw.dtype
    x, other, y = draw.values(count), draw.values(count, dtype=other_dtype), draw.empty(count)
    draw.library("add", count, x, draw.dtype, other, other_dtype, y)
    return {"y": y}, {"y": exact(x) + exact(other)}


def sum_of_squares(draw: Draw) -> tuple[Results, Results]:
    x, total = draw.values(draw.size(90000)), np.empty(1)
    draw.library("sum_of_squares", x.size, x, draw.dtype, total)
    return {"sum": total}, {"sum": np.sum(exact(x) ** 2, keepdims=True)}


def adamw(draw: Draw) -> tuple[Results, Results]:
    count = draw.size(20000)
    arrays = [draw.values(count, dtype="float32") for _ in range(3)]
    arrays[2] = np.abs(arrays[2])
    gradient, weights = draw.values(count), empty(count, "bfloat16") if draw.chance() else None
    rates = {"factor": 0.5, "learning_rate": 0.01, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8,
             "weight_decay": 0.1, "correction1": 0.271, "correction2": 0.142625}  # fmt: skip
    expected = references.adamw(*map(exact, (*arrays, gradient)), rates)
    draw.library("adamw", count, *arrays, gradient, draw.dtype, weights, *rates.values())
    if weights is not None:
        assert np.array_equal(weights, stored(arrays[0], "bfloat16")), "not the rounded master"
    return dict(zip(("master", "moment1", "moment2"), arrays, strict=True)), expected


def cast(draw: Draw) -> tuple[Results, Results]:
    source = draw.values(draw.size(40000))
    results = {dtype: empty(source.shape, dtype) for dtype in BOUNDS}
    for dtype, target in results.items():
        draw.library("cast", source.size, source, draw.dtype, target, dtype)
    return results, {dtype: exact(stored(exact(source), dtype)) for dtype in results}


OPERATORS: dict[str, Callable[[Draw], tuple[Results, Results]]] = {
    operator.__name__: operator
    for operator in (norm, activation, rotary, attention, linear_cross_entropy, matmul, tiles,
                     embedding, add, sum_of_squares, adamw, cast)
}  # fmt: skip


def check(operator: str, draw: Draw) -> None:
    """Run one case.

    Raises:
        AssertionError: a result is farther from the reference than its type's bound, or missing.
    """
    results, expected = OPERATORS[operator](draw)
    for name, result in results.items():
        reference = expected[name]
        bound = BOUNDS["bfloat16" if result.dtype == np.uint16 else draw.dtype]
        limit = bound * max(np.abs(reference).max(), 0.1)
        error = np.abs(exact(result) - reference).max()
        assert error <= limit, f"{operator}: {name} {result.shape} is off by {error:.2g}"


class _Lent:
    """A tensor of the library's memory, as NumPy takes it over."""

    def __init__(self, library: CpuLibrary, shape: tuple[int, ...]) -> None:
        place = np.zeros(1, np.uint64)
        library("take", np.array(shape), len(shape), "float32", place)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [c_void_p, ctypes.c_char_p, c_void_p]
        self.capsule = new(int(place[0]), b"dltensor", None)

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def check_memory(library: CpuLibrary, seed: int) -> None:
    """Write to all of tensors that the library lends, while others come and go.

    Raises:
        AssertionError: one has not kept its values.
    """
    draw = Draw(library, seed, "float32")
    kept = []
    for number in range(4):
        shape = draw.size(50), draw.size(4000)
        _fill(np.from_dlpack(_Lent(library, shape)), 255)  # and drop it
        kept.append(np.from_dlpack(_Lent(library, shape)))
        _fill(kept[-1], number)
        library("give_back_memory")
    for number, values in enumerate(kept):
        same = values.view(np.uint8) == number
        assert same.all(), f"memory of {values.shape} is another's, too"


def _fill(values: ndarray, byte: int) -> None:
    """NumPy takes what it is lent for read-only."""
    ctypes.memset(values.ctypes.data, byte, values.nbytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="cases for each operator and dtype")
    arguments = parser.parse_args()
    library = CpuLibrary(arguments.library)
    for operator in OPERATORS:
        for seed in range(arguments.seeds):
            for dtype in BOUNDS:
                check(operator, Draw(library, seed, dtype))
    for seed in range(arguments.seeds):
        check_memory(library, seed)
    print(f"{library.instructions()}: all {len(OPERATORS)} operators agree")


if __name__ == "__main__":
    main()
