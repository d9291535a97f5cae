"""The compiled library: where it is, its signatures, calls with Paddle's tensors, and their memory.

What operators compute has memory that the next tensor of the same size takes over. A step makes and
drops hundreds of tensors of a few sizes. Paddle has them aligned by glibc, which (before 2.38)
can't place one where an equal one was: the holes came to a twelfth of a process. And what is given
back to the system and asked for anew must be cleared page by page: a seventh of a step.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import mmap
from collections.abc import Sequence
from contextlib import suppress
from enum import IntEnum
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.utils import dlpack

INTERFACE = 7
"""What llm_cpu_interface() of a matching library returns."""
HOW_TO_BUILD = "make ops, or pip install ./external_ops, builds it"

_DTYPES = {paddle.float32: 0, paddle.bfloat16: 1}
_POINTER, _SIZE, _FLAG, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_KINDS = {"p": _POINTER, "n": _SIZE, "i": _FLAG, "f": _REAL}

SIGNATURES: dict[str, list[Any]] = {}
"""The types of the arguments of the functions llm_cpu_<name>, as `declare` was told."""


class WeightOrder(IntEnum):
    """llm_layout of llm_ops_cpu.h: how a weight [k, n] lies in memory."""

    PLAIN = 0
    TRANSPOSED = 1
    PACKED = 2


class Mask(ctypes.Structure):
    """llm_mask of llm_ops_cpu.h."""

    _fields_ = [
        ("slopes", _POINTER),
        ("prefix_ends", _POINTER),
        ("document_starts", _POINTER),
    ]


@cache
def find() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None; and its instruction set, or why there is none."""
    if importlib.util.find_spec("llm_pretrain_ops") is None:
        return None, f"the C++ operators are not built ({HOW_TO_BUILD})"
    import llm_pretrain_ops

    try:
        # The library takes oneDNN and OpenMP from what is loaded: Paddle's own copies.
        for name in ("libiomp5.so", "libdnnl.so.3"):
            ctypes.CDLL(str(_paddles(name)), ctypes.RTLD_GLOBAL)
        library = ctypes.CDLL(str(llm_pretrain_ops.cpu_library()))
        built_for = library.llm_cpu_interface()
    except (OSError, AttributeError, StopIteration) as error:
        return None, f"the C++ operators can't be loaded: {error} ({HOW_TO_BUILD})"
    if built_for != INTERFACE:
        return None, f"the C++ operators are of another version ({HOW_TO_BUILD})"
    library.llm_cpu_error.restype = ctypes.c_char_p
    library.llm_cpu_instructions.restype = ctypes.c_char_p
    for name, types in SIGNATURES.items():
        getattr(library, f"llm_cpu_{name}").argtypes = types
    return library, library.llm_cpu_instructions().decode()


def declare(**signatures: str) -> None:
    """Say what functions llm_cpu_<name> take, before they are called.

    Args:
        signatures: a letter per argument: p pointer, n size, i flag or type, f float.
    """
    for name, letters in signatures.items():
        SIGNATURES[name] = [_KINDS[letter] for letter in letters]
    find.cache_clear()


declare(cast="npipi")


def call(name: str, *arguments: Any) -> None:
    """Call llm_cpu_<name>. Tensors, which must be contiguous, and arrays go in as pointers.

    Raises:
        RuntimeError: the library refused.
    """
    library, reason = find()
    assert library is not None, reason
    if getattr(library, f"llm_cpu_{name}")(*map(_as_argument, arguments)):
        raise RuntimeError(f"{name}: {library.llm_cpu_error().decode()}")


def threads() -> int:
    """How many the library's operators use, as Paddle's do."""
    return int(_openmp().omp_get_max_threads())


@cache
def _openmp() -> ctypes.CDLL:
    return ctypes.CDLL(str(_paddles("libiomp5.so")))


def _paddles(name: str) -> Path:
    """A library that Paddle brings."""
    return Path(paddle.__file__).parent / "libs" / name


def _as_argument(value: Any) -> Any:
    if isinstance(value, (int, float, NoneType)):
        return value
    if isinstance(value, Tensor):
        assert value.is_contiguous()
        return value.data_ptr()
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return value.ctypes.data
    if isinstance(value, ctypes.Structure):
        return ctypes.addressof(value)
    return _DTYPES[value]


def serves(*operands: Tensor | None) -> bool:
    """Whether operands are of a kind that the library takes; None is no operand."""
    return all(
        x is None or (x.dtype in _DTYPES and x.place.is_cpu_place() and 0 not in x.shape)
        for x in operands
    )


def count(x: Tensor) -> int:
    """How many elements `x` has; `x.size` asks NumPy, which takes sixty times as long."""
    return math.prod(x.shape)


def expect(
    name: str, x: Tensor | np.ndarray | None, shape: Sequence[int], dtype: Any = None
) -> None:
    """Refuse an operand that the library would misread; None is no operand.

    Raises:
        ValueError: its shape, or its dtype where one is given, is another.
    """
    if x is None:
        return
    if list(x.shape) != list(shape):
        raise ValueError(f"{name} is {list(x.shape)} where {list(shape)} is needed")
    if dtype is not None and x.dtype != dtype:
        raise ValueError(f"{name} is {x.dtype} where {dtype} is needed")


def packed(x: Tensor) -> Tensor:
    """`x`, or a copy without gaps."""
    return x if x.is_contiguous() else x.contiguous()


def cast(x: Tensor, dtype: paddle.dtype) -> Tensor:
    """`x` in float32 or bfloat16, without a gradient."""
    x = packed(x)
    return x if x.dtype == dtype else copied(x, dtype)


def copied(x: Tensor, dtype: paddle.dtype) -> Tensor:
    """A copy of `x` in float32 or bfloat16, without a gradient.

    Two gradients of one backward pass must not share memory: autograd may add to either in place.
    """
    x = packed(x)
    y = empty(x.shape, dtype)
    call("cast", count(x), x, x.dtype, y, dtype)
    return y


def as_float32(x: Tensor) -> Tensor:
    return cast(x, paddle.float32)


_LEAST = 1 << 20
"""Bytes from which it pays."""
_STORED_AS: dict[paddle.dtype, np.dtype[Any]] = {
    paddle.float32: np.dtype("float32"),
    paddle.bfloat16: np.dtype("int16"),
}

_idle: dict[int, list[mmap.mmap]] = {}
"""By size, what was used last at the end."""
_unneeded: dict[int, int] = {}
"""The fewest of a size that lay idle when one was taken, since `give_back_memory`."""


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
    """A block that lies idle, or a new one, for which those of sizes not used in this step go.

    So a step of other sizes than the last needs no memory for both. Tensors are dropped in any
    thread, so nothing is taken for granted between two lines.
    """
    blocks = _idle.get(size, [])
    try:
        block = blocks.pop()
    except IndexError:
        _unneeded[size], wanted = 0, size
    else:
        _unneeded[size] = min(len(blocks), _unneeded.get(size, len(blocks)))
        return block
    for other, unused in list(_idle.items()):
        with suppress(IndexError):
            while wanted > 0 and other not in _unneeded:
                wanted -= len(unused.pop())
    try:
        return _map(size)
    except OSError:
        _idle.clear()
        return _map(size)


def give_back_memory() -> None:
    """Give the system what has lain idle since the last time: once a step, what no step needs."""
    for size, blocks in list(_idle.items()):
        del blocks[: _unneeded.get(size, len(blocks))]
    _unneeded.clear()


def _map(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def empty(shape: Sequence[int], dtype: paddle.dtype) -> Tensor:
    """A tensor on the CPU whose values mean nothing yet, as `paddle.empty`."""
    stored_as = _STORED_AS.get(dtype)
    size = 0 if stored_as is None else math.prod(shape) * stored_as.itemsize
    if stored_as is None or size < _LEAST:
        return paddle.empty(shape, dtype)
    # A capsule, since NumPy's arrays refuse what Paddle asks them for first.
    lease = _Lease(_take(size), shape, stored_as)
    values: Tensor = dlpack.from_dlpack(np.asarray(lease).__dlpack__())
    return values if dtype == paddle.float32 else values.view(dtype)


def empty_like(x: Tensor) -> Tensor:
    """`empty` of the shape and dtype of `x`."""
    return empty(x.shape, x.dtype)
