"""The order of samples, exactly PaddleNLP's (and Megatron's) for the same data and seed.

Documents are laid one after another for as many epochs as are needed, in shuffled order; samples
of S + 1 tokens are cut from that stream, each beginning with the last token of the one before; the
samples are shuffled in turn.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.token_data import DataError

try:
    from fast_dataindex import helpers as _native
except ImportError:
    # It has no wheel for every platform; the NumPy builder gives the same array.
    _native = None

ARRAYS = ("doc_idx", "sample_idx", "shuffle_idx")
_INT32_MAX = np.iinfo(np.int32).max
# Below this share of an epoch's samples the last epoch is shuffled apart from the others.
_LAST_EPOCH_SHARE = 0.80
# Documents that the NumPy builder looks at together: bounds its temporary memory.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class EpochPlan:
    """How many passes over the documents give enough samples."""

    epochs: int
    samples: int
    """Samples that these epochs hold; at least as many as were asked for."""
    separate_last_epoch: bool
    """The last epoch, of which only a part is used, follows after all the others."""
    samples_before_last: int
    """Samples in the epochs shuffled together first: all of them unless the last is separate."""


class SampleIndex(NamedTuple):
    """The order of samples; the arrays' names in files are `ARRAYS`."""

    documents: NDArray[np.integer]
    """Order of documents, shape [epochs × documents], sequence numbers of the data."""
    samples: NDArray[np.integer]
    """Shape [samples + 1, 2]: where each sample begins, as (place in `documents`, token in it)."""
    shuffle: NDArray[np.integer]
    """Shape [samples]: number in `samples` of what serves as the i-th sample."""


def plan_epochs(tokens_per_epoch: int, sequence_length: int, samples: int) -> EpochPlan:
    """The smallest number of epochs e with (e × tokens - 1) // sequence length >= samples."""
    assert tokens_per_epoch > sequence_length >= 1
    assert samples >= 0
    epochs = max(1, -(-(samples * sequence_length + 1) // tokens_per_epoch))
    total = (epochs * tokens_per_epoch - 1) // sequence_length
    if epochs == 1:
        return EpochPlan(epochs, total, False, total)
    before_last = ((epochs - 1) * tokens_per_epoch - 1) // sequence_length
    per_epoch = (tokens_per_epoch - 1) // sequence_length
    separate = samples - before_last < int(_LAST_EPOCH_SHARE * per_epoch)
    return EpochPlan(epochs, total, separate, before_last if separate else total)


def build_sample_index(
    sizes: NDArray[np.int32], documents: range, *, sequence_length: int, samples: int, seed: int
) -> SampleIndex:
    """The index of at least `samples` samples of `sequence_length` + 1 tokens.

    `sizes`: int32, tokens of every document of the data; `documents`: which of them to use. They
    must hold more than `sequence_length` tokens.
    """
    if not 0 <= seed < 1 << 32:
        raise DataError(f"seed is {seed}; it must be from 0 to {(1 << 32) - 1}.")
    tokens = int(sizes[documents.start : documents.stop].sum(dtype=np.int64))
    plan = plan_epochs(tokens, sequence_length, samples)
    # One generator serves all three shuffles, so their order is part of the sample order.
    random = np.random.RandomState(seed)
    order = document_order(documents, plan, random)
    starts = sample_starts(sizes, order, sequence_length=sequence_length, plan=plan)
    return SampleIndex(order, starts, shuffle_order(plan, random))


def document_order(
    documents: range, plan: EpochPlan, random: np.random.RandomState
) -> NDArray[np.integer]:
    """Shuffled documents of all epochs, int32 (int64 beyond 2^31 documents)."""
    once: NDArray[np.integer] = np.arange(
        documents.start, documents.stop, dtype=_count_type(documents.stop)
    )
    if not plan.separate_last_epoch:
        together = np.tile(once, plan.epochs)
        random.shuffle(together)
        return together
    first = np.tile(once, plan.epochs - 1)
    random.shuffle(first)
    random.shuffle(once)
    return np.concatenate([first, once])


def sample_starts(
    sizes: NDArray[np.int32],
    order: NDArray[np.integer],
    *,
    sequence_length: int,
    plan: EpochPlan,
) -> NDArray[np.integer]:
    """`SampleIndex.samples`, by fast_dataindex where it can do it."""
    # The native builder counts documents in int32.
    if _native is None or order.dtype != np.int32 or len(order) > _INT32_MAX:
        return numpy_sample_starts(sizes, order, sequence_length, plan.samples)
    tokens = int(sizes[order].sum(dtype=np.int64))
    with _stdout_silenced():
        return _native.build_sample_idx(
            np.array(sizes, np.int32), order, sequence_length, plan.epochs, tokens // plan.epochs
        )


def numpy_sample_starts(
    sizes: NDArray[np.int32], order: NDArray[np.integer], sequence_length: int, samples: int
) -> NDArray[np.integer]:
    """The same array without a compiled helper.

    Sample i begins at token i × sequence length of the stream of ordered documents, that is, in
    the first document that ends beyond it.
    """
    starts: NDArray[np.integer] = np.empty((samples + 1, 2), _count_type(len(order)))
    done = tokens = 0
    for begin in range(0, len(order), _BLOCK):
        lengths = sizes[order[begin : begin + _BLOCK]].astype(np.int64)
        ends = tokens + np.cumsum(lengths)
        tokens = int(ends[-1])
        # Those that begin before the end of this block.
        stop = min(samples + 1, -(-tokens // sequence_length))
        first_token = np.arange(done, stop, dtype=np.int64) * sequence_length
        places = np.searchsorted(ends, first_token, side="right")
        starts[done:stop, 0] = begin + places
        starts[done:stop, 1] = first_token - (ends[places] - lengths[places])
        done = stop
    # Empty documents before the first token belong to the first sample.
    starts[0] = 0
    return starts


def shuffle_order(plan: EpochPlan, random: np.random.RandomState) -> NDArray[np.integer]:
    """Shuffled sample numbers; a separate last epoch's samples stay behind all the others."""
    narrow = plan.samples < np.iinfo(np.uint32).max - 1
    numbers: NDArray[np.integer] = np.arange(plan.samples, dtype=np.uint32 if narrow else np.int64)
    first, last = np.split(numbers, [plan.samples_before_last])
    random.shuffle(first)
    random.shuffle(last)
    return numbers


def _count_type(limit: int) -> type[np.integer]:
    return np.int32 if limit <= _INT32_MAX else np.int64


@contextmanager
def _stdout_silenced() -> Iterator[None]:
    """Send file descriptor 1 nowhere: compiled code prints past `sys.stdout`."""
    try:
        sys.stdout.flush()
        saved = os.dup(1)
    except (AttributeError, OSError, ValueError):
        # There is no standard output, so nothing to silence.
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 1)
        finally:
            os.close(nowhere)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
