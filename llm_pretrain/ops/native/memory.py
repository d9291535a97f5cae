"""Memory for what operators compute, which the next tensor of the same size takes over.

A step makes and drops hundreds of tensors of a few sizes. Paddle has them aligned by glibc, which
(before 2.38) can't place one where an equal one was: the holes came to a twelfth of a process.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.utils import dlpack

_LEAST = 1 << 20
"""Bytes from which it pays."""
_STORED_AS: dict[paddle.dtype, np.dtype[Any]] = {
    paddle.float32: np.dtype("float32"),
    paddle.bfloat16: np.dtype("int16"),
}

_idle: dict[int, list[mmap.mmap]] = {}


class _Lease:
    """A block for as long as some tensor has it."""

    def __init__(self, block: mmap.mmap, shape: Sequence[int], stored_as: np.dtype[Any]) -> None:
        self.block = block
        address = ctypes.addressof(ctypes.c_char.from_buffer(block))
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(shape),
            "typestr": stored_as.str,
            "data": (address, False),
        }

    def __del__(self) -> None:
        _idle.setdefault(len(self.block), []).append(self.block)


def _take(size: int) -> mmap.mmap:
    """A block that lies idle, or a new one, for which as much of what lies idle is given back.

    Tensors are dropped in any thread, so nothing is taken for granted between two steps.
    """
    try:
        return _idle[size].pop()
    except (KeyError, IndexError):
        wanted = size
    for other, blocks in list(_idle.items()):
        with suppress(IndexError):
            while wanted > 0:
                wanted -= len(blocks.pop())
        if not blocks:
            _idle.pop(other, None)
    try:
        return _map(size)
    except OSError:
        _idle.clear()
        return _map(size)


def _map(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def empty(shape: Sequence[int], dtype: paddle.dtype) -> Tensor:
    """A tensor on the CPU whose values mean nothing yet, as `paddle.empty`."""
    stored_as = _STORED_AS.get(dtype)
    size = 0 if stored_as is None else math.prod(shape) * stored_as.itemsize
    if stored_as is None or size < _LEAST:
        return paddle.empty(shape, dtype)
    values: Tensor = dlpack.from_dlpack(np.asarray(_Lease(_take(size), shape, stored_as)))
    return values if dtype == paddle.float32 else values.view(dtype)


def empty_like(x: Tensor) -> Tensor:
    """`empty` of the shape and dtype of `x`."""
    return empty(x.shape, x.dtype)
