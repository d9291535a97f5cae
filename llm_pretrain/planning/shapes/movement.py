"""Paddle's operators that make tensors, view them, copy and rearrange them.

Views share memory. What reads elements wants them without gaps, and else works on a copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from llm_pretrain.planning.trace import Traffic

Shape = Sequence[int]


def moved(name: str, *tensors: Tensor) -> None:
    """Note what an operator reads and writes."""
    size = 0
    for x in tensors:
        size += x.bytes
    recorder.events.append(Traffic(name, size))


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
    dtype: DType = DTYPES["float32"]


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
    record("split", [x], ys, lambda _, dys: [concat(given(dys), axis)])
    return ys


def given(gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """Gradients none of which is missing."""
    assert all(gradient is not None for gradient in gradients), "a part without gradient"
    return list(gradients)  # type: ignore[arg-type]


def concat(xs: Sequence[Tensor], axis: int = 0) -> Tensor:
    first, axis = xs[0], axis % xs[0].ndim
    sizes = [x.shape[axis] for x in xs]
    copies = packed_copies(*xs)
    y = new([*first.shape[:axis], sum(sizes), *first.shape[axis + 1 :]], first.dtype)
    moved("concat", y, y)
    del copies
    record("concat", list(xs), [y], lambda _, dys: split(given(dys)[0], sizes, axis))
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
    record("expand", [x], [y], lambda _, dys: [reduced_to(dys[0], before)])
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


def reduced_to(dy: Tensor | None, shape: list[int]) -> Tensor:
    """The gradient of an operand that was broadcast."""
    assert dy is not None
    dx = new(shape, dy.dtype)
    moved("sum", dy, dx)
    return dx
