"""Several datasets as one, by weight: the file that says so, and the order of their samples.

A blend as a YAML file is datasets by name, each with a weight or a number of epochs:

    - name: web
      path: web/text        # a prefix, a folder or a glob, relative to this file; ~ and $NAME count
      weight: 0.7
    - name: books
      path: books
      weight: 0.3
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from llm_pretrain.config.argument_types import expanded
from llm_pretrain.data.cache import IndexCache
from llm_pretrain.data.samples import Sample, Texts
from llm_pretrain.data.token_data import DataError

try:
    from fast_dataindex import helpers as _native
except ImportError:
    _native = None

ENDINGS = (".yaml", ".yml")
# Some 100,000 entries.
_MOST_BYTES = 16 << 20
_KEYS = ("name", "path", "weight", "epochs")
# Composed with libyaml where PyYAML has it: 20,000 entries take seconds otherwise. Only nodes are
# made, never objects, so that a tag in the file can't do anything.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# The native builder numbers datasets in int16.
_MOST_DATASETS = np.iinfo(np.int16).max
# It looks at every dataset for each sample, which beyond this number takes longer than NumPy does.
_MOST_FOR_NATIVE = 2000
# Samples for which NumPy chooses among the same datasets.
_BLOCK = 512
# Datasets × samples that take some five seconds.
_LONG = 4_000_000_000


Order = tuple[NDArray[np.int16], NDArray[np.int64]]
"""For each sample, the dataset it is from and its number there."""


@dataclass(frozen=True)
class Entry:
    name: str
    path: Path
    """A prefix, a folder or a glob."""
    weight: float | None
    epochs: float | None
    """Passes over its training split; exactly one of the two is given, the same one in a file."""

    @property
    def amount(self) -> float:
        """The weight, or the epochs."""
        amount = self.weight if self.epochs is None else self.epochs
        assert amount is not None
        return amount


def read_blend_file(path: Path) -> tuple[Entry, ...]:
    """The entries in their order. Raises DataError that names the file and the line."""
    node = _compose(path)
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise DataError(
            f"{path} is no blend: it must be a list of datasets, each with a name, a path and "
            "either weight or epochs."
        )
    entries = tuple(_entry(path, item) for item in node.value)
    if len({entry.epochs is None for entry in entries}) > 1:
        raise DataError(
            f"{path} gives weight to some datasets and epochs to others. Give one of them to all."
        )
    names: set[str] = set()
    for entry, item in zip(entries, node.value, strict=True):
        if entry.name in names:
            raise DataError(f"{_place(path, item)}: the name {entry.name!r} is used twice.")
        names.add(entry.name)
    if not any(entry.amount for entry in entries):
        raise DataError(f"{path}: every dataset has weight or epochs 0.")
    return entries


def _compose(path: Path) -> yaml.Node | None:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path} is larger than {_MOST_BYTES >> 20} MiB: it is no blend.")
        node: yaml.Node | None = yaml.compose(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not YAML: {error}") from error
    return node


def _place(path: Path, node: yaml.Node) -> str:
    return f"{path}, line {node.start_mark.line + 1}"


def _entry(path: Path, node: yaml.Node) -> Entry:
    where = _place(path, node)
    if not isinstance(node, yaml.MappingNode):
        raise DataError(f"{where}: a dataset must be written as `name: …`, `path: …` and so on.")
    values: dict[str, str] = {}
    for key, value in node.value:
        if key.value not in _KEYS:
            raise DataError(
                f"{_place(path, key)}: {key.value!r} is no key of a dataset. "
                f"There are {', '.join(_KEYS)}."
            )
        if key.value in values:
            raise DataError(f"{_place(path, key)}: {key.value} is given twice.")
        if not isinstance(value, yaml.ScalarNode) or not value.value.strip():
            raise DataError(f"{_place(path, key)}: {key.value} must be a single value.")
        values[key.value] = value.value
    for key in ("name", "path"):
        if key not in values:
            raise DataError(f"{where}: the dataset has no {key}.")
    if ("weight" in values) == ("epochs" in values):
        raise DataError(f"{where}: dataset {values['name']!r} needs either weight or epochs.")
    try:
        target = expanded(values["path"])
    except ValueError as error:
        raise DataError(f"{where}: path: {error}.") from None
    return Entry(
        values["name"],
        path.parent / target,
        _amount(values, "weight", where),
        _amount(values, "epochs", where),
    )


def _amount(values: dict[str, str], key: str, where: str) -> float | None:
    if key not in values:
        return None
    try:
        amount = float(values[key])
    except ValueError:
        amount = math.nan
    if not (math.isfinite(amount) and amount >= 0):
        raise DataError(f"{where}: {key} is {values[key]!r}; it must be a number, 0 or more.")
    return amount


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


def blend_order(weights: Sequence[float], samples: int) -> Order:
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


def kept_order(weights: Sequence[float], samples: int, cache: IndexCache) -> Order:
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


def reaching_all(order: Order, weights: Sequence[float]) -> Order:
    """The order itself where it has a sample of every dataset; else one spread over all of them.

    `blend_order` takes datasets of equal weight in turn, so that of more datasets than samples it
    has the first ones alone. Here each dataset has one sample, and the others go by weight; of more
    datasets than samples, those at equal distances along the summed weights have one.
    """
    samples, datasets = len(order[0]), len(weights)
    if samples == 0 or len(np.unique(order[0])) == datasets:
        return order
    ends = np.cumsum(np.array(weights, np.float64))
    each = datasets if samples >= datasets else 0
    spread = (np.arange(samples - each) + 0.5) / max(samples - each, 1) * ends[-1]
    chosen = np.sort(np.concatenate([np.arange(each), np.searchsorted(ends, spread, "right")]))
    first_of_its_own = np.searchsorted(chosen, chosen)
    return chosen.astype(np.int16), np.arange(samples) - first_of_its_own


class BlendedSamples:
    """Samples of several datasets, each used in proportion to its weight.

    `order`: as `blend_order` gives it.
    """

    def __init__(self, datasets: Sequence[Texts], order: Order) -> None:
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
