"""Time of a trace's events on a machine: products, attention, memory, and each kind of message.

A message that is waited for later goes on beside the computation until its `Wait`; only what is
left of it then takes time of the step. Messages of one axis follow one another.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from llm_pretrain.config import Degrees
from llm_pretrain.config.degrees import ORDERS, axis_sizes
from llm_pretrain.planning.machines import Machine
from llm_pretrain.planning.trace import (
    Allocation,
    AttentionProduct,
    Axis,
    Event,
    Mark,
    Message,
    Product,
    Release,
    Traffic,
    Wait,
)

Seconds = defaultdict[str, float]
"""Seconds by part: "products", "attention", "memory", and of communication the axis."""

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Span:
    """The ranks of an axis: how many, and how many of them stand in one node."""

    ranks: int
    in_node: int

    @property
    def nodes(self) -> int:
        return -(-self.ranks // self.in_node)


def spans_of(degrees: Degrees, order: str, devices_per_node: int) -> dict[Axis, Span]:
    """The span of every axis, where ranks are numbered in the order of the layout."""
    sizes = axis_sizes(degrees)
    found: dict[str, Span] = {}
    stride = 1
    for axis in reversed(ORDERS[order]):
        in_node = max(1, min(sizes[axis], devices_per_node // stride))
        found[axis] = Span(sizes[axis], in_node)
        stride *= sizes[axis]
    data, sequence = found["data"], found["sep"]
    world = degrees.world_size
    return {
        "tensor": found["tensor"],
        "pipeline": found["pipeline"],
        "sharding": found["sharding"],
        "data": data,
        "sequence": sequence,
        "replica": Span(data.ranks * sequence.ranks, data.in_node * sequence.in_node),
        "world": Span(world, min(world, devices_per_node)),
    }


def message_seconds(message: Message, span: Span, machine: Machine) -> float:
    """Seconds that a message takes alone; `span` is that of its axis.

    Bandwidth: what a ring moves over a link (Patarasuk and Yuan 2009; nccl-tests,
    doc/PERFORMANCE.md), where every rank of a node has a link of its own to the network. Latency:
    the steps that NCCL reckons with for a ring and, of an all-reduce, a tree (src/graph/tuning.cc).
    """
    ranks = message.ranks
    if ranks == 1:
        return 0.0
    # A group of some ranks of an axis that leaves its node may have none beside another.
    whole = ranks >= span.ranks or span.nodes == 1
    in_node = min(span.in_node, ranks) if whole else 1
    nodes = -(-ranks // in_node)
    if message.kind in ("send", "receive"):
        if span.nodes == 1:
            return machine.node_step_seconds + message.size / machine.node_bandwidth
        return machine.network_step_seconds + message.size / machine.network_bandwidth
    within, between = machine.node_bandwidth, in_node * machine.network_bandwidth
    bandwidth = within if nodes == 1 else between if in_node == 1 else min(within, between)
    share = (ranks - 1) / ranks
    if message.kind == "all-to-all" and nodes > 1:
        # Of what a rank sends, the part for other nodes goes over its own link.
        bandwidth, share = machine.network_bandwidth, (ranks - in_node) / ranks
    if message.kind == "broadcast":
        share = 1.0
    rounds = 2 if message.kind == "all-reduce" else 1
    steps = rounds * (
        (ranks - nodes) * machine.node_step_seconds + (nodes - 1) * machine.network_step_seconds
    )
    if message.kind == "all-reduce":
        tree = 2 * (
            (in_node - 1) * machine.node_step_seconds
            + math.ceil(math.log2(nodes)) * machine.network_step_seconds
        )
        steps = min(steps, tree)
    return steps + rounds * share * message.size / bandwidth


TILES = ((128, 256, 1.0), (256, 128, 1.0), (128, 128, 0.95), (64, 128, 0.7))
"""Rows and columns of the tiles that a GPU's libraries cut a product's result into, and the share
of the rate of the largest that each reaches: fitted to the table of measured rates that
`tests/planning/test_time.py` has."""
SPLITS = (1, 2, 4)
"""Into how many parts the inner dimension is cut, whose results are added up."""


def product_seconds(product: Product, machine: Machine) -> float:
    """The longer of computing and of reading the operands and writing the result.

    A GPU's processors each compute a tile of the result at a time, so that a product takes as many
    rounds as it has tiles for each of them (NVIDIA, Matrix Multiplication Background User's Guide:
    tile and wave quantization), and each round takes what it costs to begin a tile and to write it.
    Of the ways to cut a product the fastest is taken. What the last round leaves idle counts half:
    libraries have more ways than these, and the measured rates fit with all of it and with none.
    """
    rows, inner, columns = product.rows, product.inner, product.columns
    flops = 2.0 * product.count * rows * inner * columns
    if not flops:
        return 0.0
    values = product.count * (rows * inner + inner * columns + rows * columns)
    size = values * _BYTES[product.dtype]
    rate = machine.product_rate(flops, product.dtype)
    if machine.processors == 1:
        computing = flops / rate
    else:
        computing = _in_tiles(
            (product.count, rows, inner, columns),
            machine.processors,
            rate / machine.processors,
            machine.tile_seconds,
            machine.memory_bandwidth,
        )
    return machine.kernel_seconds + max(computing, size / machine.memory_rate(size))


@functools.cache
def _in_tiles(
    sides: tuple[int, int, int, int],
    processors: int,
    rate: float,
    tile_seconds: float,
    memory_bandwidth: float,
) -> float:
    """Seconds on processors of `rate` FLOP/s each."""
    count, rows, inner, columns = sides
    largest = TILES[0][0] * TILES[0][1]
    found = math.inf
    for high, wide, share in TILES:
        tiles = count * math.ceil(rows / high) * math.ceil(columns / wide)
        beside = tile_seconds * high * wide / largest
        for parts in SPLITS:
            even = max(1.0, tiles * parts / processors)
            rounds = (even + math.ceil(even)) / 2
            one = 2.0 * high * wide * inner / parts / (rate * share) + beside
            # Each part's result is written and read in float32.
            added = 8.0 * count * rows * columns * parts / memory_bandwidth if parts > 1 else 0.0
            found = min(found, rounds * one + added)
    return found


def attention_seconds(attention: AttentionProduct, machine: Machine) -> float:
    """Two products forward and five backward, of which a causal mask leaves half."""
    products = 5 if attention.is_backward else 2
    scores = float(attention.batch * attention.heads * attention.queries * attention.keys)
    flops = products * 2.0 * scores * attention.head_size * (0.5 if attention.is_causal else 1.0)
    share = machine.attention_backward if attention.is_backward else machine.attention_forward
    rate = machine.peak(attention.dtype) * share * machine.sustained
    return machine.kernel_seconds + flops / rate


def traffic_seconds(traffic: Traffic, machine: Machine) -> float:
    if not traffic.size:
        return 0.0
    return machine.kernel_seconds + traffic.size / machine.memory_rate(traffic.size)


def add(total: Seconds, more: Mapping[str, float], times: float = 1.0) -> None:
    """`times` of each part of `more` to `total`, in place."""
    for part, seconds in more.items():
        total[part] += times * seconds


@dataclass
class Work:
    """Computation without a message in between."""

    seconds: Seconds = field(default_factory=lambda: defaultdict(float))


Timed = Work | Message | Wait | Mark


def timeline(events: Iterable[Event], machine: Machine) -> list[Timed]:
    """What takes time, in order: neighbouring events of computation as one."""
    line: list[Timed] = []
    for event in events:
        match event:
            case Allocation() | Release():  # most events
                continue
            case Product():
                _work(line)["products"] += product_seconds(event, machine)
            case AttentionProduct():
                _work(line)["attention"] += attention_seconds(event, machine)
            case Traffic():
                _work(line)["memory"] += traffic_seconds(event, machine)
            case Mark() if event.block is not None or event.phase == "recompute":
                continue
            case Message() | Wait() | Mark():
                line.append(event)
    return line


def _work(line: list[Timed]) -> Seconds:
    if not line or not isinstance(line[-1], Work):
        line.append(Work())
    last = line[-1]
    assert isinstance(last, Work)
    return last.seconds


@dataclass
class Section:
    """What a rank does from one mark to the next, messages between stages left out."""

    mark: Mark
    seconds: Seconds = field(default_factory=lambda: defaultdict(float))

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def begins(mark: Mark, section: Mark) -> bool:
    """Whether a mark begins a section after that of `section`: another pass, or the update.

    Blocks, and what a backward pass computes again, are of the pass.
    """
    return mark.phase != "recompute" and (mark.phase, mark.micro_batch, mark.chunk) != (
        section.phase,
        section.micro_batch,
        section.chunk,
    )


def sections(
    line: Sequence[Timed], spans: Mapping[Axis, Span], machine: Machine
) -> Iterator[Section]:
    """The passes of a step and its update, in the order of the trace.

    What a backward pass computes again belongs to it. A message that is still on its way at the
    end of a section goes on beside the next.
    """
    now = 0.0
    free: dict[Axis, float] = {}
    ends: dict[int, tuple[float, Axis]] = {}
    section = Section(Mark("start"))
    for event in line:
        match event:
            case Work():
                add(section.seconds, event.seconds)
                now += sum(event.seconds.values())
            case Mark():
                if not begins(event, section.mark):
                    continue
                if section.mark.phase != "start":
                    yield section
                section = Section(event)
            case Message() if event.kind in ("send", "receive"):
                continue
            case Message():
                begin = max(now, free.get(event.axis, 0.0))
                end = begin + message_seconds(event, spans[event.axis], machine)
                free[event.axis] = end
                if event.number is None:
                    section.seconds[event.axis] += end - now
                    now = end
                else:
                    ends[event.number] = (end, event.axis)
            case Wait():
                end, axis = ends.pop(event.number, (0.0, "world"))
                if end > now:
                    section.seconds[axis] += end - now
                    now = end
    if section.mark.phase != "start":
        yield section
