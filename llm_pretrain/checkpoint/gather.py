"""Whole published tensors from the parts that the ranks hold."""

from __future__ import annotations

from collections.abc import Iterator

from paddle import Tensor, nn

from llm_pretrain.parallel import collectives
from llm_pretrain.parallel.pieces import named_pieces
from llm_pretrain.parallel.topology import Topology


def whole_tensors(model: nn.Layer, topology: Topology) -> Iterator[tuple[str, Tensor]]:
    """Each published tensor of this stage, whole, one at a time.

    Every rank of the tensor-parallel group must run through it, since parts are gathered.
    """
    degree = topology.degrees.tensor
    for parameter, piece in named_pieces(model):
        part = parameter.detach()[piece.region(degree)]
        if piece.axis is None or degree == 1:
            yield piece.name, part
        else:
            # Gathering lays parts one after another along the first axis.
            swap = list(range(len(piece.shape)))
            swap[0], swap[piece.axis] = piece.axis, 0
            whole = collectives.all_gather(part.transpose(swap).contiguous(), topology.tensor_group)
            yield piece.name, whole.transpose(swap)
