"""Which ranks work together along each axis of a layout."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from llm_pretrain.config.degrees import Degrees

# Fleet's axes, outermost first: ranks of the last axis are neighbours.
ORDERS: dict[str, tuple[str, ...]] = {
    "pp_first": ("data", "pipeline", "sharding", "sep", "tensor"),
    "sharding_first": ("data", "sharding", "pipeline", "sep", "tensor"),
}


def rank_groups(degrees: Degrees, order: str) -> dict[str, list[list[int]]]:
    """For every axis of more than one process, the groups of ranks that differ only along it.

    The context axis takes the place of the sep axis, which excludes it.
    """
    sizes = {
        "data": degrees.data,
        "pipeline": degrees.pipeline,
        "sharding": degrees.sharding,
        "sep": degrees.sequence,
        "tensor": degrees.tensor,
    }
    axes = ORDERS[order]
    return {
        axis: _groups([sizes[name] for name in axes], axes.index(axis))
        for axis in axes
        if sizes[axis] > 1
    }


def _groups(shape: Sequence[int], axis: int) -> list[list[int]]:
    stride = math.prod(shape[axis + 1 :])
    others = [range(size) if i != axis else range(1) for i, size in enumerate(shape)]
    groups = []
    for place in itertools.product(*others):
        first = sum(index * math.prod(shape[i + 1 :]) for i, index in enumerate(place))
        groups.append([first + k * stride for k in range(shape[axis])])
    return groups
