"""Paddle's operators that compute, and all of them as methods of a tensor.

Each makes its result, keeps what its gradient needs, and writes down what it computes. An operator
whose gradient is not written here refuses inputs that are trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llm_pretrain.planning.shapes.autograd import record
from llm_pretrain.planning.shapes.movement import (
    Shape,
    astype,
    clone,
    contiguous,
    copy_,
    expand,
    getitem,
    given,
    moved,
    packed_copies,
    reduced_to,
    reshape,
    setitem,
    squeeze,
    tile,
    transposed,
    unbind,
    unsqueeze,
)
from llm_pretrain.planning.shapes.storage import DTYPES, DType, recorder
from llm_pretrain.planning.shapes.tensor import Tensor, new
from llm_pretrain.planning.trace import Product

Number = (int, float, np.integer, np.floating)
BOOL = DTYPES["bool"]


def unary(name: str, kept: str) -> Callable[[Tensor], Tensor]:
    """`kept`: what the gradient needs, "input", "output", or "" for an operator without one."""

    def operator(x: Tensor, *_: Any, **__: Any) -> Tensor:
        copies = packed_copies(x)
        y = new(x.shape, x.dtype)
        moved(name, x, y)
        del copies
        saved = [] if not kept else [x if kept == "input" else y]
        record(name, [x], [y], (lambda saved, dys: [_like(dys[0])]) if kept else None, saved)
        return y

    return operator


def _like(dy: Tensor | None) -> Tensor:
    assert dy is not None
    dx = new(dy.shape, dy.dtype)
    moved("gradient", dy, dy, dx)
    return dx


def broadcast(x: Shape, y: Shape) -> list[int]:
    length = max(len(x), len(y))
    wide_x, wide_y = ([1] * (length - len(shape)) + list(shape) for shape in (x, y))
    assert all(a == b or 1 in (a, b) for a, b in zip(wide_x, wide_y, strict=True)), f"{x} and {y}"
    return [b if a == 1 else a for a, b in zip(wide_x, wide_y, strict=True)]


def binary(name: str, *, keeps: bool, to: DType | None = None) -> Callable[[Any, Any], Tensor]:
    """`keeps`: the gradient needs both operands; `to`: the dtype of the result, else theirs."""

    def operator(x: Any, y: Any) -> Tensor:
        if isinstance(y, Number):
            return by_number(name, x, to)
        if isinstance(x, Number):
            return by_number(name, y, to)
        assert x.dtype is y.dtype, f"{name} of {x.dtype} and {y.dtype}"
        copies = packed_copies(x, y)
        z = new(broadcast(x.shape, y.shape), to or x.dtype)
        moved(name, x, y, z)
        del copies
        shapes = x.shape, y.shape
        is_trained = not x.stop_gradient, not y.stop_gradient

        def backward(saved: list[Any], dys: Sequence[Tensor | None]) -> list[Tensor | None]:
            dz = given(dys)[0]
            return [
                (_like(dz) if shape == dz.shape else reduced_to(dz, shape)) if trained else None
                for shape, trained in zip(shapes, is_trained, strict=True)
            ]

        record(name, [x, y], [z], None if to else backward, [x, y] if keeps else [])
        return z

    return operator


def by_number(name: str, x: Tensor, to: DType | None) -> Tensor:
    """A tensor and a number."""
    copies = packed_copies(x)
    y = new(x.shape, to or x.dtype)
    moved(name, x, y)
    del copies
    record(name, [x], [y], None if to else lambda _, dys: [_like(dys[0])])
    return y


def scale(x: Tensor, *_: Any) -> Tensor:
    return by_number("scale", x, None)


def in_place(name: str) -> Callable[..., Tensor]:
    def operator(x: Tensor, *others: Any, **_: Any) -> Tensor:
        operands = [other for other in others if isinstance(other, Tensor)]
        copies = packed_copies(*operands)
        moved(name, x, x, *operands)
        del copies
        return x

    return operator


def where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    z = new(broadcast(x.shape, y.shape), x.dtype)
    moved("where", condition, x, y, z)
    record("where", [x, y], [z], None)
    return z


# Reductions


def reduction(name: str, *, is_trained: bool, to: DType | None = None) -> Callable[..., Tensor]:
    def operator(x: Tensor, axis: int | None = None, keepdim: bool = False) -> Tensor:
        shape = x.shape
        if axis is None:
            shape = []
        elif keepdim:
            shape[axis] = 1
        else:
            shape.pop(axis)
        copies = packed_copies(x)
        y = new(shape, to or x.dtype)
        moved(name, x, y)
        del copies
        before = x.shape

        def backward(saved: list[Any], dys: Sequence[Tensor | None]) -> list[Tensor]:
            dy = given(dys)[0]
            dx = new(before, dy.dtype)
            moved(f"{name} gradient", dy, dx)
            return [dx]

        record(name, [x], [y], backward if is_trained else None)
        return y

    return operator


# Products


def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    *batch_x, rows, inner = _turned(x.shape) if transpose_x else x.shape
    *batch_y, depth, columns = _turned(y.shape) if transpose_y else y.shape
    assert inner == depth, f"{x.shape} by {y.shape}"
    copies = packed_copies(x, y)
    z = new([*broadcast(batch_x, batch_y), rows, columns], x.dtype)
    del copies
    if batch_y:
        count = math.prod(broadcast(batch_x, batch_y))
        product = Product(rows, inner, columns, x.dtype.name, count)
    else:
        product = Product(math.prod(batch_x) * rows, inner, columns, x.dtype.name)
    recorder.events.append(product)
    is_plain = not (transpose_x or batch_y)

    def backward(saved: list[Any], dzs: Sequence[Tensor | None]) -> list[Tensor | None]:
        if not is_plain:
            raise NotImplementedError("the paddle of shapes knows no gradient of such a product")
        (x, y), dz = saved, given(dzs)[0]
        copies = packed_copies(x, y, dz)
        dx = dy = None
        if x_trained:
            dx = new(x.shape, x.dtype)
            recorder.events.append(Product(product.rows, columns, inner, x.dtype.name))
        if y_trained:
            dy = new(y.shape, y.dtype)
            recorder.events.append(Product(inner, product.rows, columns, x.dtype.name))
        del copies
        return [dx, dy]

    x_trained, y_trained = not x.stop_gradient, not y.stop_gradient
    record("matmul", [x, y], [z], backward, [x, y])
    return z


def _turned(shape: list[int]) -> list[int]:
    return [*shape[:-2], shape[-1], shape[-2]]


def take_along_axis(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    y = new(indices.shape, x.dtype)
    moved("take_along_axis", y, y)
    record("take_along_axis", [x], [y], None)
    return y


add, subtract = binary("add", keeps=False), binary("subtract", keeps=False)
multiply, divide = binary("multiply", keeps=True), binary("divide", keeps=True)
maximum = binary("maximum", keeps=True)
equal, less = binary("equal", keeps=False, to=BOOL), binary("less", keeps=False, to=BOOL)
bitwise = binary("bitwise", keeps=False)
exp, sqrt, rsqrt = unary("exp", "output"), unary("sqrt", "output"), unary("rsqrt", "output")
log, square, clip = unary("log", "input"), unary("square", "input"), unary("clip", "input")
total, mean = reduction("sum", is_trained=True), reduction("mean", is_trained=True)
largest = reduction("max", is_trained=False)
exists = reduction("any", is_trained=False, to=BOOL)

_METHODS: dict[str, Any] = {
    "reshape": reshape, "unsqueeze": unsqueeze, "squeeze": squeeze, "T": property(transposed),
    "__getitem__": getitem, "__iter__": lambda x: iter(unbind(x)),
    "__setitem__": setitem, "unbind": unbind, "contiguous": contiguous,
    "clone": clone, "copy_": copy_, "astype": astype, "expand": expand, "scale": scale,
    "expand_as": lambda x, y: expand(x, y.shape), "exp": exp, "sqrt": sqrt, "log": log,
    "square": square, "clip": clip, "sum": total, "mean": mean, "max": largest, "any": exists,
    "cos": unary("cos", ""), "sin": unary("sin", ""), "abs": unary("abs", ""),
    "logical_not": unary("logical_not", ""), "__neg__": unary("negative", ""),
    "__add__": add, "__radd__": add, "__sub__": subtract, "__rsub__": subtract,
    "__mul__": multiply, "__rmul__": multiply, "__truediv__": divide, "__rtruediv__": divide,
    "__mod__": bitwise, "__and__": bitwise, "__or__": bitwise, "__xor__": bitwise,
    "__rshift__": bitwise, "__lt__": less, "__le__": less, "__gt__": less, "__ge__": less,
    "__eq__": equal, "__ne__": equal, "__hash__": object.__hash__, "tile": tile,
    **{f"{name}_": in_place(name) for name in (
        "add", "subtract", "multiply", "scale", "exp", "zero", "square")},
}  # fmt: skip
for _name, _method in _METHODS.items():
    setattr(Tensor, _name, _method)
