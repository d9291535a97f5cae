"""Reading the tensors of a file that `torch.save` wrote, without torch.

Such a file is a zip archive of stored entries: `data.pkl`, a pickle of the state dict in which a
storage is a persistent id, and `data/<key>`, the values of each storage (torch 1.6 and later).
"""

from __future__ import annotations

import mmap
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llm_pretrain.checkpoint.restricted_pickle import Global, as_text, load_pickle
from llm_pretrain.checkpoint.stored_tensor import StoredTensor, UnreadableFileError

_STORAGES: dict[str, tuple[str, np.dtype[Any]]] = {
    "torch.FloatStorage": ("float32", np.dtype("<f4")),
    "torch.HalfStorage": ("float16", np.dtype("<f2")),
    "torch.BFloat16Storage": ("bfloat16", np.dtype("<u2")),
    "torch.DoubleStorage": ("float64", np.dtype("<f8")),
    "torch.LongStorage": ("int64", np.dtype("<i8")),
    "torch.IntStorage": ("int32", np.dtype("<i4")),
    "torch.ByteStorage": ("uint8", np.dtype("u1")),
    "torch.BoolStorage": ("bool", np.dtype("?")),
}
_LOCAL_HEADER = struct.Struct("<26xHH")  # the sizes of what follows it: a name and extra fields


class _Storage(NamedTuple):
    dtype: str
    numpy_type: np.dtype[Any]
    values: memoryview


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
        return _Storage(*_STORAGES[kind.name], values_of(f"data/{as_text(key)}"))

    if f"{root}byteorder" in entries and bytes(values_of("byteorder")) != b"little":
        raise UnreadableFileError("it was written on a big-endian machine")
    state = load_pickle(values_of("data.pkl"), _FUNCTIONS, storage)
    if not isinstance(state, dict):
        raise UnreadableFileError("it holds no state dict")
    for name, value in state.items():
        if not isinstance(value, StoredTensor):
            raise UnreadableFileError(f"its entry {name!r} is no tensor")
    return state


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
    size = storage.numpy_type.itemsize
    array: np.ndarray = np.ndarray(
        shape,
        storage.numpy_type,
        buffer=storage.values,
        offset=offset * size,
        strides=tuple(stride * size for stride in strides),
    )
    return StoredTensor(storage.dtype, array.shape, lambda: array)


def _parameter(tensor: StoredTensor, *_: Any) -> StoredTensor:
    return tensor


def _dictionary() -> dict[str, Any]:
    """Filled afterwards, as `set_items` allows."""
    return {}


def _no_call(*_: Any) -> None:
    raise TypeError


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dictionary,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    **dict.fromkeys(_STORAGES, _no_call),
}
