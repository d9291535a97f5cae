"""The index cache: arrays that one process builds and others read.

An entry is `<key>_<name>.npy` for each array and `<key>.json`, which lists them and is written
last. Every file is written under a temporary name and renamed, and what is built depends on its
description alone; so a reader never sees half an entry, and two builders at once only do the same
work twice.

After a crash of the machine, names may be on the disk without what was written. Therefore large
arrays are there before the list that names them. To wait for the disk takes milliseconds, which
with tens of thousands of files are minutes; so the list has checksums of small arrays instead.

PaddleNLP's own cache is read where it still fits the data. An entry of it is `<md5>.dsc`, a text,
and `<md5>_doc_idx.npy`, `_sample_idx.npy` and `_shuffle_idx.npy`; <md5> is the hash of that text.
The text says nothing of what the data holds, so PaddleNLP itself would take the entry of data that
has been replaced since.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.sample_index import (
    ARRAYS,
    SampleIndex,
    numpy_sample_starts,
    plan_epochs,
)
from llm_pretrain.data.token_data import DataError, TokenData, map_npy
from llm_pretrain.machine.files import reason, replacing, write_text

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


class _UnfitError(Exception):
    """Why an entry can't be used."""


@dataclass(frozen=True)
class Wanted:
    """The index that is looked for."""

    tokens: TokenData
    written_prefix: str
    """The prefix as PaddleNLP's command line had it."""
    split_name: str
    split: str
    documents: range
    sequence_length: int
    samples: int
    seed: int

    def description(self) -> str:
        """PaddleNLP's text for it."""
        return (
            "GPT Dataset\n\n"
            f"Data prefix {self.written_prefix}\n"
            f"Dataset name {self.split_name}\n"
            f"Number of samples {self.samples}\n"
            f"Sequence length {self.sequence_length}\n"
            f"Random seed {self.seed}\n"
            f"Split {self.split}\n"
        )


def read_paddlenlp_index(
    wanted: Wanted, folders: Iterable[Path]
) -> tuple[SampleIndex | None, list[str]]:
    """The index of the first folder that has it, and what the user should know about it.

    An entry is used if its files are newer than the data and its arrays are an order of exactly
    these documents. Any other is passed over, and the notice says why.
    """
    notices = []
    description = wanted.description()
    key = hashlib.md5(description.encode(), usedforsecurity=False).hexdigest()
    for folder in folders:
        entry = folder / key
        if not entry.with_suffix(".dsc").is_file():
            continue
        try:
            index = _read_entry(entry, description, wanted)
        except _UnfitError as error:
            notices.append(f"PaddleNLP's index {entry}_*.npy is not used: {error}.")
        else:
            notices.append(
                f"The order of {wanted.tokens.prefix} ({wanted.split_name}) is read from "
                f"PaddleNLP's index {entry}_*.npy."
            )
            return index, notices
    return None, notices


def _read_entry(entry: Path, description: str, wanted: Wanted) -> SampleIndex:
    paths = [entry.with_name(f"{entry.name}_{name}.npy") for name in ARRAYS]
    try:
        if entry.with_suffix(".dsc").read_text(encoding="utf-8") != description:
            raise _UnfitError("its .dsc file describes something else")
        data_time = max(path.stat().st_mtime_ns for path in wanted.tokens.files)
        if min(path.stat().st_mtime_ns for path in paths) <= data_time:
            raise _UnfitError("the data has been written since")
        index = SampleIndex(*map(map_npy, paths))
    except _UnfitError:
        raise
    except Exception as error:  # a damaged file raises almost anything
        raise _UnfitError(f"it can't be read ({error})") from error
    _check(index, wanted)
    return index


def _check(index: SampleIndex, wanted: Wanted) -> None:
    sizes, documents = wanted.tokens.sizes, wanted.documents
    total = int(sizes[documents.start : documents.stop].sum(dtype=np.int64))
    plan = plan_epochs(total, wanted.sequence_length, wanted.samples)
    expected = {
        "doc_idx": (index.documents, (plan.epochs * len(documents),)),
        "sample_idx": (index.samples, (plan.samples + 1, 2)),
        "shuffle_idx": (index.shuffle, (plan.samples,)),
    }
    for name, (array, shape) in expected.items():
        if array.dtype.kind not in "iu" or array.shape != shape:
            raise _UnfitError(
                f"{name} is {array.dtype} {list(array.shape)} instead of integers {list(shape)}: "
                "the lengths of the documents are others now"
            )
    first = plan.samples_before_last
    for name, array, begin, stop, times in (
        ("doc_idx", index.documents, documents.start, documents.stop, plan.epochs),
        ("shuffle_idx", index.shuffle[:first], 0, first, 1),
        ("shuffle_idx", index.shuffle[first:], first, plan.samples, 1),
    ):
        if not _holds_each(array, begin, stop, times):
            raise _UnfitError(f"{name} doesn't hold every number from {begin} to {stop - 1} alike")
    # Computed, not only looked at: wrong lengths could lead to samples that begin anywhere.
    starts = numpy_sample_starts(sizes, index.documents, wanted.sequence_length, plan.samples)
    if not np.array_equal(starts, index.samples):
        raise _UnfitError("the lengths of the documents are others now")


def _holds_each(array: NDArray[np.integer], begin: int, stop: int, times: int) -> bool:
    """Whether every number in [begin, stop) is there `times` times, and no other."""
    if len(array) == 0:
        return stop == begin
    if int(array.min()) < begin or int(array.max()) >= stop:
        return False
    counts = np.bincount(array.astype(np.int64) - begin, minlength=stop - begin)
    return bool((counts == times).all())
