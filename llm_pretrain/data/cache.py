"""The index cache: arrays that one process builds and others read.

An entry is `<key>_<name>.npy` for each array and `<key>.json`, which lists them and is written
last. Every file is written under a temporary name and renamed, and what is built depends on its
description alone; so a reader never sees half an entry, and two builders at once only do the same
work twice.

After a crash of the machine, names may be on the disk without what was written. Therefore large
arrays are there before the list that names them. To wait for the disk takes milliseconds, which
with tens of thousands of files are minutes; so the list has checksums of small arrays instead.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.mapping import map_npy
from llm_pretrain.data.token_data import DataError
from llm_pretrain.machine.faults import reason
from llm_pretrain.machine.files import replacing, write_text

Arrays = Mapping[str, NDArray]
_POLL_S = 0.2
# Up to this size an array has a checksum; that takes less time than to wait for the disk.
_SMALL_BYTES = 1 << 20


class IndexCache:
    """Finds cache entries and builds them.

    `folders`: where to look, in order; the last is where entries are written. `builder`: this
    process builds what is missing. Others look for it when a builder has done so; on a disk of the
    network a file may come in sight a while after it was written, `timeout_s` seconds at most.
    """

    def __init__(self, folders: Sequence[Path], *, builder: bool, timeout_s: float) -> None:
        assert folders
        self.folders = tuple(folders)
        self.builder = builder
        self.timeout_s = timeout_s

    def fetch(self, description: str, build: Callable[[], Arrays]) -> Arrays:
        """The arrays that `description` stands for, memory-mapped.

        `description` must hold everything that the arrays depend on. Raises DataError where the
        entry can't be written, and at the time-out.
        """
        deadline = time.monotonic() + self.timeout_s
        while (found := self.find(description)) is None:
            if self.builder:
                return self._build(description, build)
            if time.monotonic() > deadline:
                raise DataError(self._timed_out(description))
            time.sleep(min(_POLL_S, self.timeout_s))
        return found

    def find(self, description: str) -> Arrays | None:
        """The entry, if a whole one is there."""
        for folder in self.folders:
            try:
                return _read(folder, description)
            except DataError:
                continue
        return None

    def _build(self, description: str, build: Callable[[], Arrays]) -> Arrays:
        folder = self.folders[-1]
        with _writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
        arrays = build()
        with _writing_to(folder):
            _write(folder, description, arrays)
        return _read(folder, description)

    def _timed_out(self, description: str) -> str:
        folder = self.folders[-1]
        try:
            _read(folder, description)
            why = "It has only just appeared."
        except DataError as error:
            why = str(error)
        return (
            f"Waited {self.timeout_s:g} s for an index of the data that another process has "
            f"written to {folder}, in vain: {why} If that process is on another node that doesn't "
            "share this folder, set share_folder to false."
        )


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"The index of the data can't be written to {folder}: {reason(error)}. "
            "Set data_cache to a folder that can be written to."
        ) from error


def _key(description: str) -> str:
    return hashlib.md5(description.encode(), usedforsecurity=False).hexdigest()


def _read(folder: Path, description: str) -> Arrays:
    key = _key(description)
    manifest_path = folder / f"{key}.json"
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        if manifest["description"] != description:
            raise DataError(f"{manifest_path} describes something else.")
        arrays = {}
        for name, (dtype, shape) in manifest["arrays"].items():
            path = folder / f"{key}_{name}.npy"
            array = map_npy(path)
            if array.dtype.str != dtype or list(array.shape) != shape:
                raise DataError(f"{path} is not the array that {manifest_path.name} lists.")
            checksum = manifest.get("checksums", {}).get(name)
            if checksum is not None and checksum != zlib.crc32(array.data):
                raise DataError(f"{path} is damaged.")
            arrays[name] = array
        return arrays
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is not there.") from error
    except Exception as error:  # a damaged file raises almost anything
        raise DataError(f"The entry {manifest_path} can't be read: {error}") from error


def _write(folder: Path, description: str, arrays: Arrays) -> None:
    key = _key(description)
    small = {name for name, array in arrays.items() if array.nbytes <= _SMALL_BYTES}
    manifest = {
        "description": description,
        "arrays": {name: (array.dtype.str, array.shape) for name, array in arrays.items()},
        "checksums": {name: zlib.crc32(np.ascontiguousarray(arrays[name]).data) for name in small},
    }
    writer = f"{os.getpid()}-{secrets.token_hex(4)}"
    for name, array in arrays.items():
        path = folder / f"{key}_{name}.npy"
        with (
            replacing(path, writer=writer, flush=name not in small) as unfinished,
            unfinished.open("wb") as file,
        ):
            np.save(file, array)
    text = json.dumps(manifest, indent=1)
    write_text(folder / f"{key}.json", text, writer=writer, flush=False)
