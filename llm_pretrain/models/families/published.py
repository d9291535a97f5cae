"""Where this program's tensors stand in the files of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.config.model_config import ModelConfig


@dataclass(frozen=True)
class Blocks:
    """Equal blocks of an axis, at equal distances: one of several tensors that are packed together.

    Query, key and value of every head side by side are each `count` heads' blocks of `size`, a
    `stride` of three sizes apart; whole tensors one after another are one block each.
    """

    start: int
    count: int
    size: int
    stride: int
    total: int
    """Length of the whole axis."""

    def indices(self, begin: int, end: int) -> NDArray[np.int64]:
        """Where the elements [begin, end) of the tensor stand on the axis."""
        numbers = np.arange(begin, end)
        return self.start + numbers // self.size * self.stride + numbers % self.size


Packed = dict[str, Blocks]
"""Layers that stand in one matrix, each with the place of its outputs."""


def one_after_another(sizes: Mapping[str, int], groups: int = 1) -> Packed:
    """Layers of these numbers of outputs, packed in their order.

    Args:
        groups: of equal size that the outputs of every layer fall into. The first groups of all
            layers come before the second ones.
    """
    starts = accumulate((size // groups for size in sizes.values()), initial=0)
    total = sum(sizes.values())
    return {
        layer: Blocks(start, groups, size // groups, total // groups, total)
        for (layer, size), start in zip(sizes.items(), starts, strict=False)
    }


def query_key_value(model: ModelConfig, groups: int = 1) -> Packed:
    """Query, key and value, one after another within each group of heads."""
    queries = model.num_attention_heads * model.head_dim
    keys = model.num_key_value_heads * model.head_dim
    sizes = {"attention.query": queries, "attention.key": keys, "attention.value": keys}
    return one_after_another(sizes, groups)


def gate_up(model: ModelConfig, *, gate_first: bool = True) -> Packed:
    """Gate and up, one after the other."""
    layers = ("feed_forward.gate", "feed_forward.up")
    order = layers if gate_first else layers[::-1]
    return one_after_another(dict.fromkeys(order, model.intermediate_size))


@dataclass(frozen=True)
class Source:
    """A published tensor, and which part of it one of this program's tensors is."""

    name: str
    is_transposed: bool = False
    """Linear weights are [out, in] there and [in, out] here."""
    outputs: Blocks | None = None
    """Which outputs, the last axis here, where several tensors are packed in one; None is all."""
    copy: str | None = None
    """Another name under which the same tensor is written, for a program that has it twice."""

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The published tensor's shape, from this program's."""
        if self.outputs is not None:
            shape = (*shape[:-1], self.outputs.total)
        return shape[::-1] if self.is_transposed else shape


def named_source(
    canonical: str, names: Mapping[str, str], packed: Mapping[str, Packed] | None = None
) -> Source:
    """Where a tensor stands in files whose weights of linear layers are [out, in].

    Args:
        canonical: "head.weight", "layers.3.attention.query.bias".
        names: published names by canonical ones, both without "weight" or "bias"; those within a
            decoder layer come after the name of "layers" and its number.
        packed: by published names, the layers that stand together under each.
    """
    layer, _, kind = canonical.rpartition(".")
    scope = ""
    if layer.startswith("layers."):
        _, number, layer = layer.split(".", 2)
        scope = f"{names['layers']}.{number}."
    is_linear = not layer.endswith(("embedding", "positions", "norm"))
    is_transposed = is_linear and kind == "weight"
    for name, places in (packed or {}).items():
        if layer in places:
            return Source(f"{scope}{name}.{kind}", is_transposed, places[layer])
    return Source(f"{scope}{names[layer]}.{kind}", is_transposed)
