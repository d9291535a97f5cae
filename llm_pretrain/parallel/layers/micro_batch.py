"""The samples that pass the model together, and which part of them this rank holds.

Shapes: B batch, S the positions that this rank's attention holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from paddle import Tensor

from llm_pretrain.machine.device import to_device
from llm_pretrain.ops import random_bits
from llm_pretrain.parallel.comm import topology

Ranges = tuple[tuple[int, int], ...]
"""Ranges [begin, end) of positions in a sample, in order."""


@dataclass(frozen=True)
class Sequences:
    """What the layers know of a micro-batch besides its hidden states.

    Between linear layers, sequence parallelism leaves this rank a part of S: the hidden positions.
    """

    length: int
    """Tokens of a whole sample."""
    sample_ids: tuple[int, ...]
    """Number of each sample in the run."""
    ranges: Ranges
    """Which positions of the samples attention holds here."""
    seed: int = 0
    """Of dropout."""
    position_ids: NDArray[np.int64] | None = None
    """[B, length]: what the model takes for a token's position; None is where it stands."""
    block_position_ids: NDArray[np.int64] | None = None
    """[B, length]: positions within the part that is predicted (GLM)."""
    prefix_ends: NDArray[np.int64] | None = None
    """[B, length], never falling: a position sees what stands before this, even behind itself."""
    document_starts: NDArray[np.int64] | None = None
    """[B, length]: where the document of each position begins; nothing before that is seen."""

    @property
    def positions(self) -> NDArray[np.int64]:
        """Positions [S] of what attention holds."""
        return np.concatenate([np.arange(begin, end) for begin, end in self.ranges])

    @property
    def hidden_positions(self) -> NDArray[np.int64]:
        """Positions of the hidden states between linear layers."""
        here = topology.current()
        if not here.sequence_parallel:
            return self.positions
        return np.split(self.positions, here.degrees.tensor)[here.tensor_rank]

    def random_numbers(self, place: str, positions: NDArray[np.int64]) -> Tensor:
        """Int64 [B, len(positions)], for `ops.dropout`: what is random there, in every layout."""
        return to_device(
            random_bits.numbers(self.seed, place, np.array(self.sample_ids), positions)
        )


@dataclass(frozen=True)
class MicroBatch:
    """Token ids and labels, both int64 [B, S], of this rank's part of the samples."""

    tokens: Tensor
    labels: Tensor
    label_count: int
    """Labels of the whole samples that count in the loss, at least 1."""
    sequences: Sequences


def whole_sequences(batch_size: int, length: int) -> Sequences:
    """Sequences of which this rank holds everything."""
    return Sequences(length, tuple(range(batch_size)), ((0, length),))


def local_ranges(length: int) -> Ranges:
    """The part of a sample of `length` that this rank of the sequence group holds.

    Ring attention gives each rank one part from the front and one from the back, so that the
    causal mask leaves all of them equally much to do; the exchange of heads needs one part.
    """
    return ranges_of_rank(length, topology.current().sequence_rank)


def ranges_of_rank(length: int, rank: int) -> Ranges:
    """The part of a sample of `length` that a rank of the sequence group holds."""
    degrees = topology.current().degrees
    parts = [rank, 2 * degrees.context - 1 - rank] if degrees.context > 1 else [rank]
    size = length // (degrees.sequence * len(parts))
    return tuple((part * size, (part + 1) * size) for part in parts)


def split_batch(
    tokens: NDArray[np.int64],
    labels: NDArray[np.int64],
    size: int,
    *,
    ignored_label: int,
    first_sample: int = 0,
    seed: int = 0,
    structure: Mapping[str, NDArray[np.int64]] = MappingProxyType({}),
    copy: Callable[[NDArray[np.int64]], Tensor] = to_device,
) -> list[MicroBatch]:
    """Cut a batch [B, length] into micro-batches of at most `size` samples.

    `structure` has further fields of `Sequences` for all of the samples. `copy` brings tokens and
    labels to the device.
    """
    length = tokens.shape[1]
    ranges = local_ranges(length)
    positions = np.concatenate([np.arange(begin, end) for begin, end in ranges])
    micro_batches = []
    for begin in range(0, len(tokens), size):
        end = min(begin + size, len(tokens))
        ids = tuple(range(first_sample + begin, first_sample + end))
        whole = labels[begin:end]
        micro_batches.append(
            MicroBatch(
                copy(tokens[begin:end, positions]),
                copy(whole[:, positions]),
                max(int((whole != ignored_label).sum()), 1),
                Sequences(
                    length,
                    ids,
                    ranges,
                    seed,
                    **{name: rows[begin:end] for name, rows in structure.items()},
                ),
            )
        )
    return micro_batches
