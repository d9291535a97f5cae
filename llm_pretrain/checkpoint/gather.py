"""Whole published tensors from the parts that the ranks hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from paddle import Tensor

from llm_pretrain.parallel.comm import collectives
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.sharding.pieces import Piece


def values_of(tensor: Tensor) -> np.ndarray:
    """The values of a tensor, which may be a part of another.

    It is copied first, because `numpy()` copies all of the memory that a part lies in: a bucket's
    256 MB for every parameter.
    """
    values: np.ndarray = tensor.clone().numpy()
    return values


def whole_tensors(
    pieces: Iterable[tuple[Tensor, Piece]], topology: Topology
) -> Iterator[tuple[str, Tensor]]:
    """Each published tensor of `pieces`, whole, one at a time.

    Every rank of the tensor-parallel group must run through it, since parts are gathered.
    """
    degree = topology.degrees.tensor
    for parameter, piece in pieces:
        held = parameter.detach()
        if piece.axis is None or degree == 1:
            yield piece.name, held[piece.region(topology.tensor_rank, degree)]
            continue
        # Gathering lays parts one after another along the first axis, and wants them equal.
        region = [slice(0, size) for size in piece.shape]
        region[piece.axis] = slice(piece.offset, piece.offset + piece.share(degree))
        swap = list(range(len(piece.shape)))
        swap[0], swap[piece.axis] = piece.axis, 0
        part = held[tuple(region)].transpose(swap).contiguous()
        whole = collectives.all_gather(part, topology.tensor_group)
        yield piece.name, whole[: piece.shape[piece.axis]].transpose(swap)
