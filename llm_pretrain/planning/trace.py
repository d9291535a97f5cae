"""What one rank does in a step, event by event: the memory that it takes and gives back, what it
computes, and what it sends.

A trace knows shapes and no machine. Memory follows from it by adding up (`memory`), or by an
allocator's rules (`allocator`); time by a machine's rates (`time`).

The events that a trace has most of are not frozen: to make a frozen one takes twice as long.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Part = Literal[
    "weights", "gradients", "optimizer", "activations", "logits", "communication", "other"
]
"""What memory is for. "optimizer" is float32 masters and both moments; "communication" is what
collectives and messages are received into; "other" is what lives only within an operator."""

Phase = Literal["start", "forward", "recompute", "backward", "update"]
"""Of a step. What was done before the first step is "start"."""

Axis = Literal["tensor", "pipeline", "sharding", "data", "sequence", "replica", "world"]
"""The ranks that communicate: an axis of the layout; "sequence" is sep or context parallelism,
"replica" data times sequence, "world" all ranks."""


@dataclass(slots=True)
class Allocation:
    """Memory that is taken; `number` names it until a `Release`."""

    number: int
    size: int
    """Bytes."""
    part: Part


@dataclass(slots=True)
class Release:
    """Memory that is given back."""

    number: int


@dataclass(frozen=True)
class Product:
    """A product of matrices, [rows, inner] by [inner, columns], `count` times: 2 count rows inner
    columns FLOPs."""

    rows: int
    inner: int
    columns: int
    dtype: str
    count: int = 1


@dataclass(frozen=True)
class AttentionProduct:
    """softmax(Q Kᵀ) V of all heads, without the scores in memory; a backward pass computes the
    scores once more and has five products for the forward pass's two."""

    batch: int
    heads: int
    key_value_heads: int
    queries: int
    keys: int
    head_size: int
    dtype: str
    is_causal: bool
    is_backward: bool = False


@dataclass(slots=True)
class Traffic:
    """What is bound by memory: bytes read and written, by an operator of that name."""

    name: str
    size: int


@dataclass(frozen=True)
class Message:
    """A collective, or a message to one rank or from it.

    Attributes:
        size: bytes of the whole tensor on one rank: of an all-reduce what it reduces, of an
            all-gather or a reduce-scatter the whole of which each rank has a part, of an
            all-to-all what a rank sends in all, of a message what goes over.
        ranks: how many take part.
        number: names it for the `Wait`; None for one that is waited for at once.
    """

    kind: Literal[
        "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "broadcast", "send", "receive"
    ]
    size: int
    axis: Axis
    ranks: int
    number: int | None = None


@dataclass(frozen=True)
class Wait:
    """From here on what follows needs the message of that number."""

    number: int


@dataclass(frozen=True)
class Mark:
    """Where a phase, or a micro-batch within it, or a decoder block within that, begins."""

    phase: Phase
    micro_batch: int | None = None
    chunk: int | None = None
    block: int | None = None
    """Of the rank's blocks in the chunk, from 0."""


Event = Allocation | Release | Product | AttentionProduct | Traffic | Message | Wait | Mark


@dataclass
class Trace:
    """The events of a rank, in the order of its program."""

    events: list[Event] = field(default_factory=list)
