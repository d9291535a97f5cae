"""What Paddle's allocator holds while a trace runs: more than the tensors, for what is free may lie
in pieces that are too small.

Its rules are those of `paddle/phi/core/memory/allocation/auto_growth_best_fit_allocator.cc`: sizes
are rounded up to 256 bytes; the smallest free block that is large enough serves, its upper end; a
block that becomes free joins its free neighbours; if none is large enough, a chunk is taken from
the device. Chunks go back only where the device has no more.

A block that another stream reads, of a collective say, is free again only when the device has come
past that (`stream_safe_cuda_allocator.cc`), and the host is ahead of the device by as much as the
queue of launches holds.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Collection, Iterable
from typing import NamedTuple

from llm_pretrain.planning.trace import (
    Allocation,
    AttentionProduct,
    Event,
    Mark,
    Message,
    Part,
    Phase,
    Product,
    Release,
    Traffic,
)

ALIGNMENT = 256
"""Bytes; `phi::backends::gpu::GpuMinChunkSize`."""

LAUNCHES_AHEAD = 1024
"""How many kernels CUDA lets the host queue before a launch waits. The number is not documented;
https://stackoverflow.com/questions/53970187 measured about 1000 per stream."""


_LAUNCHED = (Product, AttentionProduct, Traffic, Message)


class OutOfMemoryError(Exception):
    """A chunk was needed that the device has not."""


class Block(NamedTuple):
    """A part of a chunk; ordered as Paddle looks for the best fit: by size, then by address."""

    size: int
    address: int


class BestFitAllocator:
    """Blocks within chunks, by Paddle's rules.

    Attributes:
        allocated: bytes in use, each block rounded up.
        reserved: bytes of all chunks.
    """

    def __init__(self, *, chunk_size: int = 0, capacity: int | None = None) -> None:
        """An allocator without a chunk.

        Args:
            chunk_size: the least that a chunk has, in bytes; FLAGS_auto_growth_chunk_size_in_mb.
            capacity: what the device has, in bytes; None for no end of it.
        """
        self.allocated = 0
        self.reserved = 0
        self._chunk_size = max(_aligned(chunk_size), ALIGNMENT)
        self._capacity = capacity
        self._free: list[Block] = []
        # Of free blocks, by the address of their first byte and of the first byte behind them.
        self._size_at: dict[int, int] = {}
        self._start_of_end: dict[int, int] = {}
        self._chunks: dict[int, int] = {}
        self._next_address = 0

    def allocate(self, size: int) -> Block:
        """A block of at least `size` bytes.

        Raises:
            OutOfMemoryError: no block is free, and the device has no chunk for one.
        """
        size = _aligned(size)
        place = bisect_left(self._free, (size, -1))
        if place == len(self._free):
            self._grow(max(size, self._chunk_size))
            place = bisect_left(self._free, (size, -1))
        found = self._free.pop(place)
        del self._size_at[found.address], self._start_of_end[found.address + found.size]
        if found.size > size:
            self._add_free(Block(found.size - size, found.address))
        self.allocated += size
        return Block(size, found.address + found.size - size)

    def release(self, block: Block) -> None:
        """Make a block free, as one with its free neighbours."""
        self.allocated -= block.size
        size, address = block
        before = self._start_of_end.get(address)
        if before is not None:
            size += self._take_free(before)
            address = before
        if address + size in self._size_at:
            size += self._take_free(address + size)
        self._add_free(Block(size, address))

    def release_idle_chunks(self) -> None:
        """Give the chunks back of which no byte is in use."""
        for address, size in list(self._chunks.items()):
            if self._size_at.get(address) == size:
                self._take_free(address)
                del self._chunks[address]
                self.reserved -= size

    def _grow(self, size: int) -> None:
        if self._capacity is not None and self.reserved + size > self._capacity:
            self.release_idle_chunks()
            if self.reserved + size > self._capacity:
                raise OutOfMemoryError(
                    f"{size} bytes on top of {self.reserved}, of {self._capacity}"
                )
        self._chunks[self._next_address] = size
        self._add_free(Block(size, self._next_address))
        self.reserved += size
        # Chunks don't touch, so that their blocks don't join.
        self._next_address += size + ALIGNMENT

    def _add_free(self, block: Block) -> None:
        insort(self._free, block)
        self._size_at[block.address] = block.size
        self._start_of_end[block.address + block.size] = block.address

    def _take_free(self, address: int) -> int:
        size = self._size_at.pop(address)
        del self._start_of_end[address + size]
        del self._free[bisect_left(self._free, (size, address))]
        return size


class MemoryPeak(NamedTuple):
    """The most that was in use and that was held, in bytes, as
    `paddle.device.cuda.max_memory_allocated` and `max_memory_reserved` count it."""

    allocated: int
    reserved: int
    parts: dict[Part, int]
    """What was in use at the peak, by part."""


def replay(
    events: Iterable[Event],
    *,
    read_elsewhere: Collection[int] = (),
    launches_ahead: int = LAUNCHES_AHEAD,
    meets_at: Phase | None = None,
    chunk_size: int = 0,
    capacity: int | None = None,
) -> MemoryPeak:
    """The peaks of a trace.

    Args:
        read_elsewhere: numbers of the allocations that another stream reads: each is free only
            when the host has launched `launches_ahead` more kernels since its release.
        meets_at: at whose begin the host waits for the device, if the program does that.

    Raises:
        OutOfMemoryError: the trace needs more than `capacity`.
    """
    allocator = BestFitAllocator(chunk_size=chunk_size, capacity=capacity)
    blocks: dict[int, tuple[Block, Part]] = {}
    waiting: deque[tuple[int, Block, Part]] = deque()
    in_use: Counter[Part] = Counter()
    peak = MemoryPeak(0, 0, {})
    reserved = 0
    launches = 0
    for event in events:
        if isinstance(event, Allocation):
            while waiting and waiting[0][0] <= launches:
                _, block, part = waiting.popleft()
                allocator.release(block)
                in_use[part] -= block.size
            block = allocator.allocate(event.size)
            blocks[event.number] = (block, event.part)
            in_use[event.part] += block.size
            reserved = max(reserved, allocator.reserved)
            if allocator.allocated > peak.allocated:
                peak = MemoryPeak(allocator.allocated, 0, dict(in_use))
        elif isinstance(event, Release):
            block, part = blocks.pop(event.number)
            if event.number in read_elsewhere:
                waiting.append((launches + launches_ahead, block, part))
            else:
                allocator.release(block)
                in_use[part] -= block.size
        elif isinstance(event, Mark) and event.phase == meets_at:
            launches += launches_ahead
        elif isinstance(event, _LAUNCHED):
            launches += 1
    return peak._replace(reserved=reserved)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
