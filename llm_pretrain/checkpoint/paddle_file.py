"""Reading the tensors of a file that `paddle.save` wrote (.pdparams), without Paddle.

Such a file is one pickle of NumPy arrays by name; bfloat16 stands in uint16. Protocol 2 holds an
array's bytes as text, and cuts arrays of more than 1 GiB into several under the key of `_BIG`.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llm_pretrain.checkpoint.restricted_pickle import MALFORMED, as_text, load_pickle
from llm_pretrain.checkpoint.stored_tensor import StoredTensor, UnreadableFileError

_BIG = "UnpackBigParamInfor@@"  # spelt so by Paddle
_NAMES = "StructuredToParameterName@@"
_DTYPES = {
    "f4": "float32",
    "f2": "float16",
    "u2": "bfloat16",
    "f8": "float64",
    "i8": "int64",
    "i4": "int32",
    "u1": "uint8",
    "b1": "bool",
}


def read_paddle_file(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a state dict by name.

    Raises:
        UnreadableFileError: not such a file, or one whose pickle names anything but arrays.
    """
    try:
        with path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except ValueError:
        raise UnreadableFileError("it is empty") from None
    state = load_pickle(content, _FUNCTIONS)
    if not isinstance(state, dict):
        raise UnreadableFileError("it holds no state dict")
    state.pop(_NAMES, None)
    big = state.pop(_BIG, {})
    tensors = {name: _stored(name, value) for name, value in state.items()}
    try:
        for name, cut in big.items():
            parts = [tensors.pop(as_text(part)) for part in cut["slices"]]
            tensors[name] = _joined(parts, tuple(cut["OriginShape"]))
    except MALFORMED:
        raise UnreadableFileError(f"its table {_BIG} can't be understood") from None
    return tensors


def _stored(name: str, value: Any) -> StoredTensor:
    if isinstance(value, tuple) and len(value) == 2:
        value = value[1]  # a tensor's own name stands before its values
    if not isinstance(value, _Array) or value.stored is None:
        raise UnreadableFileError(f"its entry {name!r} is no array")
    return value.stored


def _joined(parts: list[StoredTensor], shape: tuple[int, ...]) -> StoredTensor:
    return StoredTensor(
        parts[0].dtype,
        shape,
        lambda: np.concatenate([part.array() for part in parts]).reshape(shape),
    )


class _Type:
    """Stands for a `numpy.dtype`."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = as_text(code)

    def build(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", "|"):
            raise UnreadableFileError("it was written on a big-endian machine")


class _Array:
    """Stands for a `numpy.ndarray`, whose values stay in the file."""

    def __init__(self, *_: Any) -> None:
        self.stored: StoredTensor | None = None

    def build(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, values = state
        # Never other types: an array of objects would follow the file's bytes as addresses.
        dtype = _DTYPES[kind.code]

        def array(values: bytes | memoryview) -> np.ndarray:
            return np.ndarray(
                shape, f"<{kind.code}", buffer=values, order="F" if is_fortran else "C"
            )

        if callable(values):
            self.stored = StoredTensor(dtype, shape, lambda: array(values()))
        else:
            # Made here for NumPy to refuse what the values don't suffice for.
            view = array(values)
            self.stored = StoredTensor(dtype, view.shape, lambda: view)


def _encoded(text: str | memoryview, _: str) -> bytes | Callable[[], bytes]:
    """The bytes that protocol 2 wrote as text, each a character; long ones when they are needed."""
    if isinstance(text, str):
        return text.encode("latin-1")
    return lambda: str(text, "utf-8").encode("latin-1")


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    "_codecs.encode": _encoded,
    "builtins.tuple": tuple,
    "__builtin__.tuple": tuple,
}
