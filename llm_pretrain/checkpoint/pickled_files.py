"""Tensors of the files that `paddle.save` and `torch.save` write, read without either program.

A file of Paddle (.pdparams) is one pickle of NumPy arrays by name; bfloat16 stands in uint16.
Protocol 2 holds an array's bytes as text, and cuts arrays of more than 1 GiB into several under the
key of `_BIG`. A file of torch 1.6 and later is a zip archive of stored entries: `data.pkl`, a
pickle of the state dict in which a storage is a persistent id, and `data/<key>`, the values of each
storage.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llm_pretrain.checkpoint.restricted_pickle import MALFORMED, Global, as_text, load_pickle
from llm_pretrain.checkpoint.safetensors_file import StoredTensor, UnreadableFileError

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
"""The types of values by NumPy's codes of what they stand in."""
_STORAGES = {
    "torch.FloatStorage": "f4",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "u2",
    "torch.DoubleStorage": "f8",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "b1",
}
_BIG = "UnpackBigParamInfor@@"  # spelt so by Paddle
_NAMES = "StructuredToParameterName@@"
_LOCAL_HEADER = struct.Struct("<26xHH")  # the sizes of what follows it: a name and extra fields


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
    state = _state_dict(load_pickle(content, _PADDLE_FUNCTIONS))
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


def read_torch_file(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a state dict by name.

    Raises:
        UnreadableFileError: not such a file, or one whose pickle names anything but tensors.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (zipfile.BadZipFile, ValueError):
        raise UnreadableFileError(
            "it is no zip archive; files of torch before 1.6 are read when torch saves them anew"
        ) from None
    pickles = [name for name in entries if name.endswith("data.pkl")]
    root = pickles[0].removesuffix("data.pkl") if pickles else ""

    def values_of(name: str) -> memoryview:
        entry = entries.get(root + name)
        if entry is None:
            raise UnreadableFileError(f"it has no entry {root}{name}")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise UnreadableFileError(f"its entry {root}{name} is compressed")
        start = entry.header_offset + _LOCAL_HEADER.size
        if start > len(content):
            raise UnreadableFileError(f"it is cut off before its entry {root}{name}")
        start += sum(_LOCAL_HEADER.unpack_from(content, entry.header_offset))
        return content[start : start + entry.file_size]

    def storage(identifier: tuple[str, Global, str, str, int]) -> _Storage:
        _, kind, key, _, _ = identifier
        return _Storage(_STORAGES[kind.name], values_of(f"data/{as_text(key)}"))

    if f"{root}byteorder" in entries and bytes(values_of("byteorder")) != b"little":
        raise UnreadableFileError("it was written on a big-endian machine")
    state = _state_dict(load_pickle(values_of("data.pkl"), _TORCH_FUNCTIONS, storage))
    for name, value in state.items():
        if not isinstance(value, StoredTensor):
            raise UnreadableFileError(f"its entry {name!r} is no tensor")
    return state


class _Storage(NamedTuple):
    """Stands for a torch storage."""

    kind: str
    """NumPy's code of its type."""
    values: memoryview


def _tensor(
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_: Any,
) -> StoredTensor:
    """What `torch._utils._rebuild_tensor_v2` makes; offset and strides count elements.

    NumPy refuses what would lie outside the storage.
    """
    kind = np.dtype(f"<{storage.kind}")
    size = kind.itemsize
    array: np.ndarray = np.ndarray(
        shape,
        kind,
        buffer=storage.values,
        offset=offset * size,
        strides=tuple(stride * size for stride in strides),
    )
    return StoredTensor(_DTYPES[storage.kind], array.shape, lambda: array)


def _parameter(tensor: StoredTensor, *_: Any) -> StoredTensor:
    return tensor


def _dictionary() -> dict[str, Any]:
    """Filled afterwards, as `set_items` allows."""
    return {}


def _no_call(*_: Any) -> None:
    raise TypeError


def _state_dict(state: Any) -> dict[str, Any]:
    if not isinstance(state, dict):
        raise UnreadableFileError("it holds no state dict")
    return state


_PADDLE_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    "_codecs.encode": _encoded,
    "builtins.tuple": tuple,
    "__builtin__.tuple": tuple,
}
_TORCH_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dictionary,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    **dict.fromkeys(_STORAGES, _no_call),
}
