"""Paddle's operators: what each allocates, what its gradient keeps, and what it computes.

An operator whose gradient is not written here refuses inputs that are trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llm_pretrain.planning.shapes import tensor as tensors
from llm_pretrain.planning.shapes.autograd import record
from llm_pretrain.planning.shapes.storage import DTYPES, DType, Storage, dtype_of, recorder
from llm_pretrain.planning.shapes.tensor import (
    Impl,
    Tensor,
    UnknownToShapesError,
    new,
    view_of,
)
from llm_pretrain.planning.trace import Product, Traffic

Shape = Sequence[int]
Scalar = (int, float, np.integer, np.floating)

BOOL, INT64, FLOAT32 = DTYPES["bool"], DTYPES["int64"], DTYPES["float32"]


def moved(name: str, *tensors: Tensor) -> None:
    """Note what an operator reads and writes."""
    recorder.events.append(Traffic(name, sum(x.bytes for x in tensors)))


def packed_copies(*operands: Tensor) -> list[Storage]:
    """Kernels want operands without gaps: copies of the others, for as long as the kernel runs."""
    return [Storage(x.bytes) for x in operands if not x.is_contiguous()]


# Made of nothing


def empty(shape: Shape, dtype: str | DType | None = None, **_: Any) -> Tensor:
    return new(shape, dtype or default.dtype)


def full(shape: Shape, fill_value: Any, dtype: str | DType | None = None, **_: Any) -> Tensor:
    return new(shape, dtype or default.dtype)


def zeros(shape: Shape, dtype: str | DType | None = None, **_: Any) -> Tensor:
    return new(shape, dtype or default.dtype)


def empty_like(x: Tensor, dtype: str | DType | None = None) -> Tensor:
    return new(x.shape, dtype or x.dtype)


def full_like(x: Tensor, fill_value: Any, dtype: str | DType | None = None) -> Tensor:
    return new(x.shape, dtype or x.dtype)


def arange(end: int, dtype: str | DType = "int64") -> Tensor:
    return new([end], dtype)


def to_tensor(data: Any, dtype: str | DType | None = None, place: Any = None) -> Tensor:
    """`place` is the host's, whose memory is not the device's."""
    array = np.asarray(data)
    if dtype is None:
        is_python = not isinstance(data, (np.ndarray, np.generic))
        dtype = "float32" if is_python and array.dtype == np.float64 else str(array.dtype)
    if place is not None and tensors.place.is_gpu_place():
        return Tensor(Impl(Storage(0), list(array.shape), dtype_of(dtype)))
    return new(array.shape, dtype)


class _Default:
    dtype: DType = FLOAT32


default = _Default()


def set_default_dtype(name: str) -> None:
    default.dtype = dtype_of(name)


# Views


def reshape(x: Tensor, shape: Shape) -> Tensor:
    sizes = list(shape)
    if -1 in sizes:
        rest = -math.prod(sizes)
        sizes[sizes.index(-1)] = x.size // rest if rest else 0
    assert math.prod(sizes) == x.size, f"{x.shape} as {shape}"
    y = view_of(x, sizes) if x.is_contiguous() else new(sizes, x.dtype)
    if not x.is_contiguous():
        moved("copy", x, y)
    record("reshape", [x], [y], lambda _, dys: [reshape(dys[0], before)])
    before = x.shape
    return y


def unsqueeze(x: Tensor, axis: int | Sequence[int]) -> Tensor:
    shape, strides = x.shape, x.impl.all_strides()[:]
    for one in sorted([axis] if isinstance(axis, int) else axis):
        place = one if one >= 0 else len(shape) + 1 + one
        shape.insert(place, 1)
        strides.insert(place, 1)
    y = view_of(x, shape, None if x.is_contiguous() else strides)
    before = x.shape
    record("unsqueeze", [x], [y], lambda _, dys: [reshape(dys[0], before)])
    return y


def squeeze(x: Tensor, axis: int) -> Tensor:
    shape, strides = x.shape, x.impl.all_strides()[:]
    assert shape.pop(axis) == 1
    strides.pop(axis)
    y = view_of(x, shape, None if x.is_contiguous() else strides)
    before = x.shape
    record("squeeze", [x], [y], lambda _, dys: [reshape(dys[0], before)])
    return y


def transposed(x: Tensor) -> Tensor:
    """x.T"""
    y = view_of(x, x.shape[::-1], x.impl.all_strides()[::-1])
    record("transpose", [x], [y], lambda _, dys: [transposed(dys[0])])
    return y


def getitem(x: Tensor, index: Any) -> Tensor:
    items = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(item, Tensor) for item in items) or None in items:
        raise UnknownToShapesError("indices but numbers and slices")
    if Ellipsis in items:
        place = items.index(Ellipsis)
        items[place : place + 1] = [slice(None)] * (x.ndim - len(items) + 1)
    shape, strides, offset = [], [], 0
    all_strides = x.impl.all_strides()
    for axis, (size, stride) in enumerate(zip(x.impl.shape, all_strides, strict=True)):
        item = items[axis] if axis < len(items) else slice(None)
        if isinstance(item, slice):
            begin, end, step = item.indices(size)
            offset += begin * stride
            shape.append(max(-(-(end - begin) // step), 0))
            strides.append(stride * step)
        else:
            offset += (item % size) * stride
    y = view_of(x, shape, strides, offset)
    before = x.shape
    record("slice", [x], [y], lambda _, dys: [_spread(before, dys[0])])
    return y


def _spread(shape: list[int], dy: Tensor) -> Tensor:
    """The gradient of a slice: zero elsewhere."""
    dx = new(shape, dy.dtype)
    moved("slice gradient", dx, dy)
    return dx


def setitem(x: Tensor, index: Any, values: Tensor) -> None:
    moved("assign", values, values)


def unbind(x: Tensor, axis: int = 0) -> list[Tensor]:
    assert axis == 0
    return [getitem(x, number) for number in range(x.impl.shape[0])]


# Copies


def contiguous(x: Tensor) -> Tensor:
    return x if x.is_contiguous() else _copy(x)


def _copy(x: Tensor) -> Tensor:
    y = new(x.shape, x.dtype)
    moved("copy", x, y)
    return y


def clone(x: Tensor) -> Tensor:
    copies = packed_copies(x)
    y = _copy(x)
    del copies
    record("assign", [x], [y], lambda _, dys: [dys[0]])
    return y


def assign(x: Tensor, output: Tensor) -> Tensor:
    copies = packed_copies(x)
    moved("assign", x, output)
    del copies
    return output


def copy_(x: Tensor, source: Tensor, blocking: bool = True) -> Tensor:
    moved("copy", x, source)
    return x


def astype(x: Tensor, dtype: str | DType) -> Tensor:
    kind = dtype_of(dtype)
    if kind is x.dtype:
        return x
    copies = packed_copies(x)
    y = new(x.shape, kind)
    moved("cast", x, y)
    del copies
    before = x.dtype
    record("cast", [x], [y], lambda _, dys: [astype(dys[0], before)])
    return y


def split(x: Tensor, parts: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    axis %= x.ndim
    sizes = [x.shape[axis] // parts] * parts if isinstance(parts, int) else list(parts)
    if -1 in sizes:
        sizes[sizes.index(-1)] = x.shape[axis] - sum(sizes) - 1
    copies = packed_copies(x)
    ys = [new([*x.shape[:axis], size, *x.shape[axis + 1 :]], x.dtype) for size in sizes]
    moved("split", x, x)
    del copies
    record("split", [x], ys, lambda _, dys: [concat(_all(dys), axis)])
    return ys


def _all(gradients: Sequence[Tensor | None]) -> list[Tensor]:
    assert all(gradient is not None for gradient in gradients), "a part without gradient"
    return list(gradients)  # type: ignore[arg-type]


def concat(xs: Sequence[Tensor], axis: int = 0) -> Tensor:
    first, axis = xs[0], axis % xs[0].ndim
    sizes = [x.shape[axis] for x in xs]
    copies = packed_copies(*xs)
    y = new([*first.shape[:axis], sum(sizes), *first.shape[axis + 1 :]], first.dtype)
    moved("concat", y, y)
    del copies
    record("concat", list(xs), [y], lambda _, dys: split(_all(dys)[0], sizes, axis))
    return y


def stack(xs: Sequence[Tensor], axis: int = 0) -> Tensor:
    assert axis == 0
    y = new([len(xs), *xs[0].shape], xs[0].dtype)
    moved("stack", y, y)
    record("stack", list(xs), [y], None)
    return y


def expand(x: Tensor, shape: Shape) -> Tensor:
    y = new(shape, x.dtype)
    moved("expand", x, y)
    before = x.shape
    record("expand", [x], [y], lambda _, dys: [_reduced_to(dys[0], before)])
    return y


def tile(x: Tensor, times: Sequence[int]) -> Tensor:
    y = new([size * count for size, count in zip(x.shape, times, strict=True)], x.dtype)
    moved("tile", x, y)
    record("tile", [x], [y], None)
    return y


def roll(x: Tensor, shift: int, axis: int) -> Tensor:
    return _same("roll", x)


def triu(x: Tensor, diagonal: int = 0) -> Tensor:
    return _same("triu", x)


def _same(name: str, x: Tensor, dtype: DType | None = None) -> Tensor:
    """A new tensor of the shape of `x`."""
    copies = packed_copies(x)
    y = new(x.shape, dtype or x.dtype)
    moved(name, x, y)
    del copies
    record(name, [x], [y], None)
    return y


def einsum(equation: str, x: Tensor) -> Tensor:
    """Permutations alone."""
    before, after = equation.split("->")
    y = new([x.shape[before.index(letter)] for letter in after], x.dtype)
    moved("einsum", x, y)
    record("einsum", [x], [y], None)
    return y


# Elementwise


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
        if isinstance(y, Scalar):
            return by_number(name, x, to)
        if isinstance(x, Scalar):
            return by_number(name, y, to)
        assert x.dtype is y.dtype, f"{name} of {x.dtype} and {y.dtype}"
        copies = packed_copies(x, y)
        z = new(broadcast(x.shape, y.shape), to or x.dtype)
        moved(name, x, y, z)
        del copies
        shapes = x.shape, y.shape
        is_trained = not x.stop_gradient, not y.stop_gradient

        def backward(saved: list[Any], dys: Sequence[Tensor | None]) -> list[Tensor | None]:
            dz = _all(dys)[0]
            return [
                (_like(dz) if shape == dz.shape else _reduced_to(dz, shape)) if trained else None
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


def _reduced_to(dy: Tensor | None, shape: list[int]) -> Tensor:
    """The gradient of an operand that was broadcast."""
    assert dy is not None
    dx = new(shape, dy.dtype)
    moved("sum", dy, dx)
    return dx


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
            dy = _all(dys)[0]
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
        (x, y), dz = saved, _all(dzs)[0]
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
    "__getitem__": getitem, "__setitem__": setitem, "unbind": unbind, "contiguous": contiguous,
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

