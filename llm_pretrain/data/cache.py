"""The index cache: arrays that one process builds and all others read.

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

from llm_pretrain.data.builder_mark import BuilderMark, builder_state
from llm_pretrain.data.errors import DataError
from llm_pretrain.data.mapping import map_npy
from llm_pretrain.machine.faults import reason

Arrays = Mapping[str, NDArray]
_POLL_S = 0.2
# Up to this size an array has a checksum; that takes less time than to wait for the disk.
_SMALL_BYTES = 1 << 20
# A builder replaces what an earlier one left before anything else. What stays this long is
# therefore of this run, even if it was there before this process looked.
_OLD_FAILURE_S = 15.0


class IndexCache:
    """Finds, builds or waits for cache entries.

    `folders`: where to look, in order; the last is where entries are written. `builder`: this
    process builds what is missing; others wait for it, `timeout_s` seconds at most per entry.
    """

    def __init__(self, folders: Sequence[Path], *, builder: bool, timeout_s: float) -> None:
        assert folders
        self.folders = tuple(folders)
        self.builder = builder
        self.timeout_s = timeout_s

    def fetch(self, description: str, build: Callable[[], Arrays]) -> Arrays:
        """The arrays that `description` stands for, memory-mapped.

        `description` must hold everything that the arrays depend on. Raises DataError where the
        entry can't be written, where the building process failed, and at the time-out.
        """
        found = self.find(description)
        if found is not None:
            return found
        if self.builder:
            return self._build(description, build)
        return self._wait(description)

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
        failure = _failure_path(folder, description)
        try:
            with _writing_to(folder):
                folder.mkdir(parents=True, exist_ok=True)
                failure.unlink(missing_ok=True)
                mark = BuilderMark(_mark_path(folder, description))
            with mark:
                arrays = build()
                with _writing_to(folder):
                    _write(folder, description, arrays)
                return _read(folder, description)
        except Exception as error:
            _leave_failure(failure, error)
            raise

    def _wait(self, description: str) -> Arrays:
        folder = self.folders[-1]
        failure = _failure_path(folder, description)
        old_failure = _modified(failure)
        mark = _mark_path(folder, description)
        seen_at_work = False
        begin = time.monotonic()
        while True:
            found = self.find(description)
            if found is not None:
                return found
            waited = time.monotonic() - begin
            failed = _modified(failure)
            if failed is not None and (failed != old_failure or waited > _OLD_FAILURE_S):
                raise DataError(
                    f"The process that builds the index of the data failed: {_text(failure)}"
                )
            state = builder_state(mark)
            seen_at_work = seen_at_work or state == "at work"
            if state == "gone" and (seen_at_work or waited > _OLD_FAILURE_S):
                raise DataError(
                    f"The process that was building an index of the data in {folder} has ended "
                    "without finishing it. See the log of that node's first rank, and start again."
                )
            if waited > self.timeout_s:
                raise DataError(self._timed_out(description))
            time.sleep(min(_POLL_S, self.timeout_s))

    def _timed_out(self, description: str) -> str:
        folder = self.folders[-1]
        try:
            _read(folder, description)
            reason = "it has only just appeared"
        except DataError as error:
            reason = str(error)
        return (
            f"Waited {self.timeout_s:g} s for another process to write an index of the data to "
            f"{folder}, in vain: {reason} If that process is still at work, wait longer; if it is "
            "on another node that doesn't share this folder, set share_folder to false."
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


def _failure_path(folder: Path, description: str) -> Path:
    return folder / f"{_key(description)}.failed"


def _mark_path(folder: Path, description: str) -> Path:
    return folder / f"{_key(description)}.building"


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
    for name, array in arrays.items():
        path = folder / f"{key}_{name}.npy"
        _write_file(path, lambda file, array=array: np.save(file, array), sync=name not in small)
    text = json.dumps(manifest, indent=1).encode()
    _write_file(folder / f"{key}.json", lambda file: file.write(text), sync=False)


def _write_file(path: Path, write: Callable, *, sync: bool) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _leave_failure(path: Path, error: Exception) -> None:
    reason = str(error) or type(error).__name__
    try:
        _write_file(path, lambda file: file.write(reason.encode(errors="replace")), sync=False)
    except OSError:
        # The folder itself is what failed; the error that follows says so.
        return


def _modified(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "it left no reason"
