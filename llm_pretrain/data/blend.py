"""Several datasets as one, by weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.errors import DataError
from llm_pretrain.data.samples import Sample, Texts

try:
    from fast_dataindex import helpers as _native
except ImportError:
    _native = None

# The native builder numbers datasets in int16.
_MOST_DATASETS = np.iinfo(np.int16).max


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
        # They take turns. The general way takes datasets × samples steps, too many for a folder
        # of tens of thousands of files.
        numbers[:], datasets[:] = np.divmod(np.arange(samples), len(shares))
    elif _native is None:
        _numpy_blend(datasets, numbers, shares)
    elif samples:
        _native.build_blending_indices(datasets, numbers, shares, len(shares), samples, False)
    return datasets, numbers


def _numpy_blend(
    datasets: NDArray[np.int16], numbers: NDArray[np.int64], shares: NDArray[np.float64]
) -> None:
    taken = np.zeros(len(shares), np.int64)
    for step in range(len(datasets)):
        chosen = int(np.argmax(shares * max(step, 1.0) - taken))
        datasets[step] = chosen
        numbers[step] = taken[chosen]
        taken[chosen] += 1


class BlendedSamples:
    """`samples` samples of several datasets, each used in proportion to its weight."""

    def __init__(self, datasets: Sequence[Texts], weights: Sequence[float], samples: int) -> None:
        self.datasets = list(datasets)
        self._dataset, self._number = blend_order(weights, samples)
        taken = np.bincount(self._dataset, minlength=len(self.datasets))
        for dataset, count in zip(self.datasets, taken, strict=True):
            assert count <= len(dataset), f"{count} samples wanted of {len(dataset)}"

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, number: int) -> Sample:
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        return self.datasets[self._dataset[number]][int(self._number[number])]
