"""Several datasets as one, by weight."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.cache import IndexCache
from llm_pretrain.data.errors import DataError
from llm_pretrain.data.samples import Sample, Texts

try:
    from fast_dataindex import helpers as _native
except ImportError:
    _native = None

# The native builder numbers datasets in int16.
_MOST_DATASETS = np.iinfo(np.int16).max
# It looks at every dataset for each sample, which beyond this number takes longer than NumPy does.
_MOST_FOR_NATIVE = 2000
# Samples for which NumPy chooses among the same datasets.
_BLOCK = 512
# Datasets × samples that take some five seconds.
_LONG = 4_000_000_000


def normalized(weights: Sequence[float]) -> list[float]:
    """Weights that add up to 1. Raises DataError where their sum is beyond a double."""
    total = 0.0
    for weight in weights:
        total += weight
    if math.isinf(total):
        raise DataError("The weights of the datasets are too large: their sum is beyond 1e308.")
    return [weight / total for weight in weights]


def samples_asked(samples: int, weight: float) -> int:
    """Samples that a dataset of this (normalised) share is built for.

    PaddleNLP's rule: 0.5 % and 20 more than its share. The number decides over epochs and so over
    the order of samples, hence the very same rule.
    """
    return math.ceil(samples * weight * 1.005) + 20


def blend_order(
    weights: Sequence[float], samples: int
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """For each sample of the blend, the dataset it is from and its number there.

    Greedy: each sample is from the dataset furthest behind its share of the samples so far. That
    one is not ahead of its share, so none is ever ahead by more than one sample. d datasets are
    never behind by more than 1 + 1/2 + … + 1/(d - 1) < 1 + ln d: by induction over steps, the k
    that are furthest behind are so by at most 1/k + … + 1/(d - 1) on average.
    """
    if len(weights) > _MOST_DATASETS:
        raise DataError(f"{len(weights)} datasets can't be blended; the most is {_MOST_DATASETS}.")
    shares = np.array(weights, np.float64)
    shares /= np.sum(shares)
    datasets, numbers = np.zeros(samples, np.int16), np.zeros(samples, np.int64)
    if np.all(shares == shares[0]):
        # They take turns.
        numbers[:], datasets[:] = np.divmod(np.arange(samples), len(shares))
    elif _native is None or len(shares) > _MOST_FOR_NATIVE:
        _numpy_blend(datasets, numbers, shares)
    elif samples:
        _native.build_blending_indices(datasets, numbers, shares, len(shares), samples, False)
    return datasets, numbers


def _numpy_blend(
    datasets: NDArray[np.int16], numbers: NDArray[np.int64], shares: NDArray[np.float64]
) -> None:
    """The native builder's order in time that hardly grows with the number of datasets.

    What a dataset is behind by grows until it is chosen. So those that will be behind by less than
    some threshold at the end of a block of samples can't be chosen within it, as long as all that
    are chosen are behind by at least that much. Where one isn't, the block ends early.
    """
    taken = np.zeros(len(shares))
    looked_at = 2 * _BLOCK
    step = 0
    while step < len(datasets):
        begin, end = step, min(step + _BLOCK, len(datasets))
        at_the_end = shares * end - taken
        threshold = -np.inf
        if looked_at < len(shares):
            threshold = np.partition(at_the_end, -looked_at)[-looked_at]
        # In their order, since of equals the first is chosen.
        candidates = np.flatnonzero(at_the_end >= threshold)
        their_shares, their_taken = shares[candidates], taken[candidates]
        behind = np.empty(len(candidates))
        chosen: list[int] = []
        while step < end:
            np.multiply(their_shares, max(step, 1), out=behind)
            np.subtract(behind, their_taken, out=behind)
            furthest = int(behind.argmax())
            if behind[furthest] < threshold:
                break
            chosen.append(furthest)
            numbers[step] = their_taken[furthest]
            their_taken[furthest] += 1
            step += 1
        datasets[begin:step] = candidates[chosen]
        taken[candidates] = their_taken
        if step == begin:
            looked_at *= 4
        elif step < end:
            looked_at += looked_at // 2
        else:
            looked_at = max(looked_at - looked_at // 16, _BLOCK)


def kept_order(
    weights: Sequence[float], samples: int, cache: IndexCache
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """`blend_order`, kept in the cache where computing it takes long."""
    looked_at = min(len(weights), _MOST_FOR_NATIVE) * samples
    if looked_at < _LONG or len(set(weights)) == 1:
        return blend_order(weights, samples)
    digest = hashlib.sha256(np.array(weights, np.float64).tobytes()).hexdigest()
    description = (
        f"llm_pretrain blend, format 1\nNumber of samples: {samples}\n"
        f"Number of datasets: {len(weights)}\nSHA-256 of their shares: {digest}"
    )

    def build() -> dict[str, NDArray]:
        datasets, numbers = blend_order(weights, samples)
        return {"dataset": datasets, "number": numbers}

    arrays = cache.fetch(description, build)
    return arrays["dataset"], arrays["number"]


class BlendedSamples:
    """Samples of several datasets, each used in proportion to its weight.

    `order`: as `blend_order` gives it.
    """

    def __init__(
        self, datasets: Sequence[Texts], order: tuple[NDArray[np.int16], NDArray[np.int64]]
    ) -> None:
        self.datasets = list(datasets)
        self._dataset, self._number = order
        if self._dataset.size and not 0 <= self._dataset.min() <= self._dataset.max() < len(
            datasets
        ):
            raise DataError(
                "The order of the blend in the index cache is damaged. Delete the folder "
                "index-cache (and what is in data_cache) and start again."
            )
        taken = np.bincount(self._dataset, minlength=len(self.datasets))
        for dataset, count in zip(self.datasets, taken, strict=True):
            assert count <= len(dataset), f"{count} samples wanted of {len(dataset)}"

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, number: int) -> Sample:
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        return self.datasets[self._dataset[number]][int(self._number[number])]
