"""PaddleNLP's own index cache, read where it still fits the data.

An entry is `<md5>.dsc`, a text, and `<md5>_doc_idx.npy`, `_sample_idx.npy` and `_shuffle_idx.npy`;
<md5> is the hash of that text. The text says nothing of what the data holds, so PaddleNLP itself
would take the entry of data that has been replaced since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.mapping import map_npy
from llm_pretrain.data.sample_index import (
    ARRAYS,
    SampleIndex,
    numpy_sample_starts,
    plan_epochs,
)
from llm_pretrain.data.token_data import TokenData


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
            index = _read(entry, description, wanted)
        except _UnfitError as error:
            notices.append(f"PaddleNLP's index {entry}_*.npy is not used: {error}.")
        else:
            notices.append(
                f"The order of {wanted.tokens.prefix} ({wanted.split_name}) is read from "
                f"PaddleNLP's index {entry}_*.npy."
            )
            return index, notices
    return None, notices


def _read(entry: Path, description: str, wanted: Wanted) -> SampleIndex:
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
