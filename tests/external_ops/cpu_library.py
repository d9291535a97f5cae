"""The C library of csrc/cpu on NumPy's arrays, without Paddle.

bfloat16 numbers are the upper halves of float32 ones, in arrays of uint16.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from ctypes import c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

HEADER = Path(__file__).parents[2] / "external_ops/csrc/cpu/llm_ops_cpu.h"
DTYPES = ("float32", "bfloat16")


class LibraryError(RuntimeError):
    """What llm_cpu_error() says."""


class Mask(ctypes.Structure):
    """llm_mask: slopes float32 [N], prefix_ends and document_starts int64 [B, S]."""

    _fields_ = (("slopes", c_void_p), ("prefix_ends", c_void_p), ("document_starts", c_void_p))

    @classmethod
    def of(cls, *rules: np.ndarray | None) -> Mask:
        return cls(*(None if rule is None else rule.ctypes.data for rule in rules))


class CpuLibrary:
    """Its functions, with the argument types that the header declares."""

    def __init__(self, path: Path) -> None:
        paddle = importlib.util.find_spec("paddle")
        assert paddle is not None
        libraries = Path(str(paddle.origin)).parent / "libs"
        self._openmp = ctypes.CDLL(str(libraries / "libiomp5.so"), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(libraries / "libdnnl.so.3"), ctypes.RTLD_GLOBAL)
        self._library = ctypes.CDLL(str(path))
        for name in ("error", "instructions"):
            getattr(self._library, f"llm_cpu_{name}").restype = ctypes.c_char_p
        for name, types in signatures().items():
            getattr(self._library, f"llm_cpu_{name}").argtypes = types

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call llm_cpu_<name>; a dtype is given as its name.

        Raises:
            LibraryError: the library refused.
        """
        if getattr(self._library, f"llm_cpu_{name}")(*map(_as_argument, arguments)):
            raise LibraryError(self._library.llm_cpu_error().decode())

    def instructions(self) -> str:
        return self._library.llm_cpu_instructions().decode()

    def threads(self) -> int:
        return self._openmp.omp_get_max_threads()

    def use_threads(self, count: int) -> None:
        self._openmp.omp_set_num_threads(c_int(count))


def signatures() -> dict[str, list[Any]]:
    """Types of the arguments of each function of the header that has any."""
    text = re.sub(r"//.*", "", HEADER.read_text(encoding="utf-8"))
    functions = re.findall(r"int llm_cpu_(\w+)\((?!void)([^)]*)\);", text)
    return {name: [_type_of(one) for one in arguments.split(",")] for name, arguments in functions}


def _type_of(argument: str) -> Any:
    if "*" in argument:
        return c_void_p
    return {"int64_t": c_int64, "float": c_float}.get(argument.split()[0], c_int)


def _as_argument(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return value.ctypes.data
    if isinstance(value, ctypes.Structure):
        return ctypes.addressof(value)
    return DTYPES.index(value) if isinstance(value, str) else value


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """`values` rounded to nearest even."""
    single = np.ascontiguousarray(values, np.float32)
    if dtype == "float32":
        return single
    bits = single.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def exact(array: np.ndarray) -> np.ndarray:
    """The numbers of an array as float64."""
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


def empty(shape: int | tuple[int, ...], dtype: str) -> np.ndarray:
    """A place for results. It holds NaN, so that what isn't written is seen."""
    return stored(np.full(shape, np.nan), dtype)
