"""Kernels in float16 and bfloat16, and what they have to give: float32 that is rounded once.

Usage: kernels_in_16_bits.py FILE. They run on the emulated device; FILE (.npz) gets their results
in float32, by "case dtype". All operands are 16-bit values of which float32 can add up hundreds of
products without rounding, so that the order of sums doesn't show.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray

DTYPES = ("bfloat16", "float16")
Array = NDArray[Any]


def rounded(values: Array, dtype: str) -> Array:
    """The nearest values of a 16-bit type, the even one of two, in float32."""
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    bits = np.array(values, np.float32, order="C").view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.asarray(nearest, np.uint32).view(np.float32)


@dataclass(frozen=True)
class Case:
    """Operands of these shapes, a function of Paddle's and its reference."""

    shapes: tuple[tuple[int, ...], ...]
    compute: Callable[..., Any]
    expect: Callable[..., Array]
    steps: int = 0
    """How many values of the type a result may be off, where functions in float32 differ."""

    def operands(self) -> list[Array]:
        draw = np.random.default_rng(0)
        return [draw.integers(-64, 65, shape).astype(np.float32) / 16 for shape in self.shapes]


def _gradient(function: Callable[..., Any], x: Any, *operands: Any) -> Any:
    """Of the sum of a function's values, by its first operand."""
    x.stop_gradient = False
    result = function(x, *operands)
    return paddle.grad([result], [x], [paddle.ones_like(result)])[0]


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


ROWS, SQUARE, COLUMNS, BATCH = (32, 64), (64, 64), (64,), (3, 8, 64)
TOKENS = [3, 0, 3, 3]

PRODUCTS = {
    "matmul": Case((ROWS, SQUARE), paddle.matmul, np.matmul),
    "matmul, gradient": Case(
        (ROWS, SQUARE),
        lambda x, w: _gradient(paddle.matmul, x, w),
        lambda x, w: np.ones_like(x) @ w.T,
    ),
    "linear": Case((ROWS, SQUARE), F.linear, np.matmul),
    "bmm": Case((BATCH, (3, 64, 8)), paddle.bmm, np.matmul),
    "einsum": Case(
        (BATCH, BATCH),
        lambda x, y: paddle.einsum("bik,bjk->bij", x, y),
        lambda x, y: np.einsum("bik,bjk->bij", x, y),
    ),
}
REDUCTIONS = {
    "sum": Case((ROWS,), lambda x: x.sum(-1), lambda x: x.sum(-1)),
    "mean": Case((ROWS,), lambda x: x.mean(0), lambda x: x.mean(0)),
    "mean of all": Case((ROWS,), lambda x: x.mean(), lambda x: x.mean()),
    "cumsum": Case((ROWS,), lambda x: x.cumsum(-1), lambda x: x.cumsum(-1)),
    "norm": Case((ROWS,), paddle.linalg.norm, lambda x: np.sqrt((x * x).sum())),
    "softmax": Case((ROWS,), F.softmax, _softmax, 1),
    "layer_norm": Case(
        (ROWS,),
        lambda x: F.layer_norm(x, [64], epsilon=0.0),
        lambda x: (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True),
        1,
    ),
    "bias, gradient": Case(
        (COLUMNS, ROWS),
        lambda b, x: _gradient(lambda b: x * b, b),
        lambda b, x: x.sum(0),
    ),
    "embedding, gradient": Case(
        (ROWS, (4, 64)),
        lambda w, y: _gradient(lambda w: F.embedding(paddle.to_tensor(TOKENS), w) * y, w),
        lambda w, y: np.eye(32)[TOKENS].T.astype(np.float32) @ y,
    ),
}
ELEMENTWISE = {
    "add": Case((ROWS, ROWS), paddle.add, np.add),
    "add in place": Case((ROWS, ROWS), lambda x, y: x.add_(y), np.add),
    "subtract": Case((ROWS, ROWS), paddle.subtract, np.subtract),
    "multiply": Case((ROWS, ROWS), paddle.multiply, np.multiply),
    "divide": Case((ROWS, ROWS), lambda x, y: x / (y.abs() + 1), lambda x, y: x / (abs(y) + 1)),
    "scale": Case((ROWS,), lambda x: x * 0.1, lambda x: x * np.float32(0.1)),
    "exp": Case((ROWS,), paddle.exp, np.exp, 1),
    "silu": Case((ROWS,), F.silu, lambda x: x * _sigmoid(x), 1),
    "swiglu": Case((ROWS, ROWS), F.swiglu, lambda x, y: x * _sigmoid(x) * y, 1),
}
OTHERS = {
    "full": Case((ROWS,), lambda x: paddle.full_like(x, 0.1), lambda x: np.full_like(x, 0.1)),
    "to float32": Case((ROWS,), lambda x: x.astype("float32") * 0.1, lambda x: x * 0.1),
    "sum in float32": Case((ROWS,), lambda x: x.sum(0, dtype="float32"), lambda x: x.sum(0)),
    "greater": Case((ROWS, ROWS), paddle.greater_than, np.greater),
    "argmax": Case((ROWS,), lambda x: x.argmax(-1), lambda x: x.argmax(-1)),
    "where": Case((ROWS, ROWS), lambda x, y: paddle.where(x > y, x, y), np.maximum),
    "transposed": Case((ROWS,), lambda x: x.T.contiguous(), np.transpose),
    "masked_select": Case((ROWS,), lambda x: x.masked_select(x > 0), lambda x: x[x > 0]),
    "gather": Case((ROWS,), lambda x: x.gather(paddle.to_tensor(TOKENS)), lambda x: x[TOKENS]),
    "scatter": Case(
        (ROWS, (2, 64)),
        lambda x, y: paddle.scatter(x, paddle.to_tensor([1, 0]), y),
        lambda x, y: np.concatenate([y[::-1], x[2:]]),
    ),
}
CASES = {**PRODUCTS, **REDUCTIONS, **ELEMENTWISE, **OTHERS}


EDGES = np.array(
    [
        *(1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8),  # bfloat16's ties
        *(1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-20, -1 - 2**-11),  # float16's
        *(65519, 65520, 2**-25, 1.5 * 2**-24, 3.4e38, 0, -0.0, np.inf, -np.inf, np.nan),
    ],
    np.float32,
)


def main(file: str) -> None:
    paddle.set_device("emulated")
    found = {}
    for dtype in DTYPES:
        for name, case in CASES.items():
            operands = [paddle.to_tensor(values).astype(dtype) for values in case.operands()]
            found[f"{name} {dtype}"] = case.compute(*operands).astype("float32").numpy()
        found[f"cast {dtype}"] = paddle.to_tensor(EDGES).astype(dtype).astype("float32").numpy()
    np.savez(file, **found)


if __name__ == "__main__":
    main(sys.argv[1])
