"""Data in stages: sources that come, go and change weight on the way.

Every source has an order of its own that never ends: its samples in one shuffled order, an epoch,
and then in another. A stage takes the next samples of its sources, so that each goes on where it
stood, and none gives a sample twice before its epoch is over. Which sample of which source the n-th
of a run is, follows from the stages up to it, and from nothing that comes later.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from llm_pretrain.config.data_stages import DataStage
from llm_pretrain.data.blend import Entry, Order, kept_order
from llm_pretrain.data.cache import IndexCache
from llm_pretrain.data.find_data import EXPECTED, Inputs, find_data
from llm_pretrain.data.samples import IndexedSamples, Sample
from llm_pretrain.data.token_data import DataError


@dataclass(frozen=True)
class Stage:
    """One of `data_stages`."""

    until: float | None
    """Tokens of the run; None: to its end."""
    samples: int
    """0 where the run does not reach it."""
    inputs: Inputs
    files: tuple[int, ...]
    """Which of all files of the run its prefixes are; () where the run does not reach it."""
    shares: tuple[float, ...]
    """Of the stage's samples, those that are from each; they add up to 1."""


def find_blends(stages: Sequence[DataStage]) -> list[Inputs]:
    """What the blend of each stage names. Raises DataError with what is missing in all of them."""
    found, problems = [], []
    for number, stage in enumerate(stages, 1):
        try:
            found.append(find_data(stage.blend, f"data_stages, stage {number}"))
        except DataError as error:
            problems.append(str(error))
    if problems:
        # What is expected is said once.
        *others, last = problems
        others = [problem.removesuffix(f" {EXPECTED}") for problem in others]
        raise DataError(" ".join([*others, last]))
    return found


def joined(blends: Sequence[Inputs]) -> tuple[Inputs, list[tuple[int, ...]]]:
    """All prefixes of several blends, each one once, and which of them each blend has.

    A prefix is the same one wherever it has the same real path.
    """
    numbers: dict[str, int] = {}
    named: list[tuple[str, Entry | None]] = []
    prefixes: list[Path] = []
    members = []
    for inputs in blends:
        entries = inputs.entries or repeat(None, len(inputs.prefixes))
        own = []
        for prefix, written, entry in zip(inputs.prefixes, inputs.written, entries, strict=True):
            number = numbers.setdefault(os.path.realpath(prefix), len(prefixes))
            if number == len(prefixes):
                prefixes.append(prefix)
                named.append((written, entry))
            own.append(number)
        members.append(tuple(own))
    names = [
        Entry(str(prefix) if entry is None else entry.name, prefix, weight=1.0, epochs=None)
        for prefix, (_, entry) in zip(prefixes, named, strict=True)
    ]
    notices = (
        f"Stage {number}: {notice}"
        for number, inputs in enumerate(blends, 1)
        for notice in inputs.notices
    )
    return Inputs(
        tuple(prefixes),
        (1.0,) * len(prefixes) if len(prefixes) > 1 else None,
        tuple(written for written, _ in named),
        tuple(names) if any(entry for _, entry in named) else None,
        tuple(notices),
    ), members


def shares_of_run(stages: Sequence[Stage], files: int) -> tuple[float, ...]:
    """Of all samples of the run, those that are from each file; they add up to 1."""
    shares = np.zeros(files)
    for stage in stages:
        np.add.at(shares, list(stage.files), np.array(stage.shares) * stage.samples)
    return tuple((shares / shares.sum()).tolist())


def order_of_stages(stages: Sequence[Stage], files: int, cache: IndexCache) -> Order:
    """For each sample of the run, the file it is from and its number there.

    Within a stage it is the order of a blend: none is ever ahead of its share by more than one.
    """
    if files > np.iinfo(np.int16).max:
        raise DataError(f"{files} files can't be blended; the most is {np.iinfo(np.int16).max}.")
    samples = sum(stage.samples for stage in stages)
    of_file, number_there = np.empty(samples, np.int16), np.empty(samples, np.int64)
    taken = np.zeros(files, np.int64)
    begin = 0
    for stage in stages:
        if not stage.samples:
            continue
        weights: defaultdict[int, float] = defaultdict(float)
        for file, share in zip(stage.files, stage.shares, strict=True):
            weights[file] += share
        which, numbers = kept_order(list(weights.values()), stage.samples, cache)
        own = np.array(list(weights), np.int16)
        part = slice(begin, begin := begin + stage.samples)
        of_file[part] = own[which]
        np.add(numbers, taken[own][which], out=number_there[part])
        taken[own] += np.bincount(which, minlength=len(own))
    return of_file, number_there


class SamplesByEpoch:
    """The samples of one source, one epoch of them after the other.

    `epochs`: each has all samples of the source, in its own order.
    """

    def __init__(self, epochs: Sequence[IndexedSamples]) -> None:
        self._epochs = epochs
        self._each = len(epochs[0])

    def __len__(self) -> int:
        return self._each * len(self._epochs)

    def __getitem__(self, number: int) -> Sample:
        epoch, place = divmod(number, self._each)
        return self._epochs[epoch][place]
