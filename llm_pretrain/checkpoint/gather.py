"""Whole published tensors from the parts that the ranks hold."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
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
        if piece.axis is not None and degree > 1:
            axes = list(range(len(piece.shape)))
            axes.insert(0, axes.pop(piece.axis))
            gathered = collectives.all_gather(
                part.transpose(axes).contiguous(), topology.tensor_group
            )
            part = gathered.transpose(np.argsort(axes).tolist())
        yield piece.name, part
