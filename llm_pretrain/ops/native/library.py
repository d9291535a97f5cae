"""The compiled library: where it is, its signatures, calls with Paddle's tensors, and their memory.

What operators compute has memory that the next tensor of the same size takes over. A step makes and
drops hundreds of tensors of a few sizes. Paddle has them aligned by glibc, which (before 2.38)
can't place one where an equal one was: the holes came to a twelfth of a process. And what is given
back to the system and asked for anew must be cleared page by page: a seventh of a step.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import math
import os
from collections.abc import Sequence
from enum import IntEnum
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.utils import dlpack

from llm_pretrain.machine import device

INTERFACE = 8
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


declare(cast="npipi", take="pnip")


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
    for x in operands:
        if x is not None and not (x.dtype in _DTYPES and x.place.is_cpu_place()):
            return False
        if x is not None and 0 in x.shape:
            return False
    return True


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
_WIDTHS = {paddle.float32: 4, paddle.bfloat16: 2}
_CAPSULE_NAME = b"dltensor"
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, [_POINTER, ctypes.c_char_p, _POINTER]


def give_back_memory() -> None:
    """Give the system what has lain idle since the last time: once a step, what no step needs."""
    if find()[0] is not None:
        call("give_back_memory")


def empty(shape: Sequence[int], dtype: paddle.dtype) -> Tensor:
    """A tensor on the CPU whose values mean nothing yet, as `paddle.empty`.

    Raises:
        OSError: the system has no memory for it.
    """
    if math.prod(shape) * _WIDTHS.get(dtype, 0) < _LEAST:
        return paddle.empty(shape, dtype)
    library, reason = find()
    assert library is not None, reason
    tensor = _POINTER()
    sizes = (_SIZE * len(shape))(*shape)
    if library.llm_cpu_take(sizes, len(shape), _DTYPES[dtype], ctypes.byref(tensor)):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    return dlpack.from_dlpack(_capsule(tensor, _CAPSULE_NAME, None))


def buffer(shape: Sequence[int], dtype: paddle.dtype) -> Tensor:
    """A tensor for what is made and dropped in every step, whose values mean nothing yet: `empty`
    on a CPU with the library, and Paddle's elsewhere."""
    is_ours = find()[0] is not None and device.kind() == "cpu"
    return empty(shape, dtype) if is_ours else paddle.empty(shape, dtype)


def empty_like(x: Tensor) -> Tensor:
    """`empty` of the shape and dtype of `x`."""
    return empty(x.shape, x.dtype)
