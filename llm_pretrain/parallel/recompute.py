"""Activations that are computed again in the backward pass instead of kept.

Applied to a model from outside. `recompute_granularity` says to what: "full" the whole block,
"full_attn" its attention, "core_attn" only softmax(Q K) V; each keeps more memory than the one
before it and computes less twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from paddle import nn
from paddle.distributed.fleet.utils import recompute


def _recomputed(function: Callable, layer: nn.Layer) -> Callable:
    def call(*arguments: Any) -> Any:
        if not layer.training:
            return function(*arguments)
        return recompute(function, *arguments, use_reentrant=False)

    return call


def apply_recompute(
    blocks: dict[int, nn.Layer],
    granularity: str,
    *,
    except_layers: Collection[int] = (),
) -> None:
    """Make the decoder blocks (by layer number) recompute, but those of `except_layers`."""
    for number, block in blocks.items():
        if number in except_layers:
            continue
        if granularity == "full":
            block.forward = _recomputed(block.forward, block)
        elif granularity == "full_attn":
            block.attention.forward = _recomputed(block.attention.forward, block)
        elif granularity == "core_attn":
            block.attention.core = _recomputed(block.attention.core, block)
        else:
            raise AssertionError(granularity)
