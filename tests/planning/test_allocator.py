"""The allocator against sequences whose answers follow from Paddle's rules by hand."""

from __future__ import annotations

import pytest

from llm_pretrain.planning.allocator import BestFitAllocator, OutOfMemoryError, replay
from llm_pretrain.planning.trace import Allocation, Event, Mark, Release, Traffic

KIB = 1024


def test_sizes_are_rounded_up_to_256_bytes() -> None:
    allocator = BestFitAllocator()
    allocator.allocate(1)
    allocator.allocate(256)
    allocator.allocate(257)
    assert allocator.allocated == allocator.reserved == 256 + 256 + 512


def test_the_smallest_block_that_is_large_enough_serves() -> None:
    allocator = BestFitAllocator()
    large, small = allocator.allocate(8 * KIB), allocator.allocate(4 * KIB)
    allocator.release(large)
    allocator.release(small)
    assert allocator.allocate(3 * KIB).address >= small.address
    assert allocator.allocate(8 * KIB) == large
    assert allocator.reserved == 12 * KIB


def test_a_block_serves_from_its_upper_end() -> None:
    allocator = BestFitAllocator()
    chunk = allocator.allocate(8 * KIB)
    allocator.release(chunk)
    assert allocator.allocate(2 * KIB).address == chunk.address + 6 * KIB
    assert allocator.allocate(2 * KIB).address == chunk.address + 4 * KIB


def test_free_neighbours_join_whatever_the_order() -> None:
    for order in ((0, 1, 2), (1, 0, 2), (0, 2, 1), (2, 1, 0)):
        allocator = BestFitAllocator()
        allocator.release(allocator.allocate(6 * KIB))
        thirds = [allocator.allocate(2 * KIB) for _ in range(3)]
        for index in order:
            allocator.release(thirds[index])
        assert allocator.allocate(6 * KIB).size == 6 * KIB
        assert allocator.reserved == 6 * KIB


def test_blocks_of_two_chunks_do_not_join() -> None:
    allocator = BestFitAllocator()
    for block in [allocator.allocate(4 * KIB), allocator.allocate(4 * KIB)]:
        allocator.release(block)
    allocator.allocate(8 * KIB)
    assert allocator.reserved == 16 * KIB


def test_a_chunk_has_at_least_its_size() -> None:
    allocator = BestFitAllocator(chunk_size=64 * KIB)
    allocator.allocate(KIB)
    allocator.allocate(KIB)
    assert allocator.reserved == 64 * KIB
    allocator.allocate(65 * KIB)
    assert allocator.reserved == 129 * KIB


def test_idle_chunks_go_back_where_the_device_has_no_more() -> None:
    allocator = BestFitAllocator(capacity=10 * KIB)
    idle, kept = allocator.allocate(4 * KIB), allocator.allocate(2 * KIB)
    allocator.release(idle)
    allocator.allocate(8 * KIB)
    assert allocator.reserved == 10 * KIB
    allocator.release(kept)
    with pytest.raises(OutOfMemoryError, match="of 10240"):
        allocator.allocate(3 * KIB)


def test_the_peaks_of_a_trace() -> None:
    events: list[Event] = [
        Allocation(0, 4 * KIB, "weights"),
        Allocation(1, 2 * KIB, "activations"),
        Release(1),
        Allocation(2, 3 * KIB, "activations"),
        Release(2),
        Allocation(3, 2 * KIB, "gradients"),
    ]
    peak = replay(events)
    assert peak.allocated == 7 * KIB
    assert peak.reserved == 9 * KIB
    assert {part: size for part, size in peak.parts.items() if size} == {
        "weights": 4 * KIB,
        "activations": 3 * KIB,
    }


def test_what_another_stream_reads_is_free_later() -> None:
    def peak(launches: int) -> int:
        kernels = [Traffic("silu", KIB)] * launches
        events = [Allocation(0, KIB, "gradients"), Release(0), *kernels]
        return replay(
            [*events, Allocation(1, KIB, "gradients")], read_elsewhere={0}, launches_ahead=3
        ).reserved

    assert peak(launches=2) == 2 * KIB
    assert peak(launches=3) == KIB


def test_where_the_host_waits_for_the_device_all_that_was_late_is_free() -> None:
    events: list[Event] = [
        Allocation(0, KIB, "gradients"),
        Release(0),
        Mark("forward"),
        Allocation(1, KIB, "activations"),
    ]
    assert replay(events, read_elsewhere={0}).reserved == 2 * KIB
    assert replay(events, read_elsewhere={0}, meets_at="forward").reserved == KIB
