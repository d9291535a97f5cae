"""Copies of ranks' state in memory of the host, in place of the files written from them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.checkpoint import host_memory
from llm_pretrain.checkpoint.checksums import DamagedCheckpointError, join_notes, note_files
from llm_pretrain.checkpoint.host_memory import ArrayInMemory, HostMemory
from llm_pretrain.checkpoint.optimizer_state import (
    FOLDER,
    VALUES,
    SavedOptimizer,
    SavedPiece,
    SavedRange,
    shard_name,
    write_shard,
)

SIZE = 1000
HALVES = [
    SavedRange("0", (SIZE,), begin, end, (SavedPiece("bias", (SIZE,), ((0, SIZE),), ((0, SIZE),)),))
    for begin, end in ((0, 600), (600, SIZE))
]
"""What each of two ranks has of a tensor."""


@pytest.fixture(autouse=True)
def lent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Two memories, as a launcher of two ranks lends them."""
    descriptors = [os.memfd_create("test") for _ in HALVES]
    monkeypatch.setattr(host_memory, "_lent", [])
    host_memory.lend(descriptors)
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


def entries(rank: int) -> list[ArrayInMemory]:
    size = HALVES[rank].end - HALVES[rank].begin
    # Not in the file's order, and with room between them.
    return [
        ArrayInMemory(f"0/{value}", "<f4", (size,), (2 - number) * 8192)
        for number, value in enumerate(VALUES)
    ]


def copy_of(rank: int, monkeypatch: pytest.MonkeyPatch, factor: float = 1.0) -> HostMemory:
    """The memory of a rank, filled with its half of `expected`."""
    monkeypatch.setenv("PADDLE_RANK_IN_NODE", str(rank))
    memory = HostMemory(3 * 8192, shard_name(rank), entries(rank))
    for value, entry in zip(VALUES, entries(rank), strict=True):
        half = slice(HALVES[rank].begin, HALVES[rank].end)
        memory.place(entry)[...] = factor * expected(value)[half]
    return memory


def expected(value: str) -> np.ndarray:
    return np.arange(SIZE, dtype=np.float32) + 7 * VALUES.index(value)


def save(checkpoint: Path, memories: list[HostMemory], steps: int = 3) -> None:
    """Write what is in memory, as the ranks' processes do."""
    checkpoint.mkdir()
    for rank, memory in enumerate(memories):
        arrays = [(entry.name, memory.place(entry)) for entry in entries(rank)]
        note_files(checkpoint, rank, write_shard(checkpoint, rank, [HALVES[rank]], arrays, steps))
    join_notes(checkpoint)


def damage(checkpoint: Path, rank: int) -> None:
    path = checkpoint / FOLDER / shard_name(rank)
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)


def read(checkpoint: Path, value: str = "moment2") -> np.ndarray:
    return SavedOptimizer(checkpoint).read("bias", (SIZE,), (slice(0, SIZE),), value)


def test_a_copy_serves_in_place_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memories = [copy_of(rank, monkeypatch) for rank in (0, 1)]
    save(tmp_path / "one", memories)
    for memory in memories:
        memory.close()  # the ranks are gone, and their launcher holds it
    for rank in (0, 1):
        damage(tmp_path / "one", rank)
    for value in VALUES:
        np.testing.assert_array_equal(read(tmp_path / "one", value), expected(value))


def test_what_is_not_copied_is_read_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lent: list[int]
) -> None:
    save(tmp_path / "one", [copy_of(rank, monkeypatch) for rank in (0, 1)])
    os.ftruncate(lent[1], 0)  # another host's
    damage(tmp_path / "one", 0)
    np.testing.assert_array_equal(read(tmp_path / "one"), expected("moment2"))
    damage(tmp_path / "one", 1)
    with pytest.raises(DamagedCheckpointError, match="rank-00001"):
        read(tmp_path / "one")


def test_a_copy_with_a_flipped_bit_does_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memories = [copy_of(rank, monkeypatch) for rank in (0, 1)]
    save(tmp_path / "one", memories)
    place = memories[1].place(entries(1)[0])
    place[5] = np.nextafter(place[5], np.float32(np.inf))
    np.testing.assert_array_equal(read(tmp_path / "one", "master"), expected("master"))
    damage(tmp_path / "one", 1)
    with pytest.raises(DamagedCheckpointError, match="rank-00001"):
        read(tmp_path / "one", "master")


@pytest.mark.parametrize("contents", [b"", b"half", bytes(100), b"\xff" * 100])
def test_a_memory_whose_rank_was_killed_at_the_start_does_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lent: list[int], contents: bytes
) -> None:
    save(tmp_path / "one", [copy_of(rank, monkeypatch) for rank in (0, 1)])
    for descriptor in lent:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, contents, 0)
    np.testing.assert_array_equal(read(tmp_path / "one"), expected("moment2"))


def test_a_copy_of_a_later_state_does_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "one", [copy_of(rank, monkeypatch) for rank in (0, 1)])
    later = [copy_of(rank, monkeypatch, factor=2.0) for rank in (0, 1)]
    np.testing.assert_array_equal(read(tmp_path / "one"), expected("moment2"))
    save(tmp_path / "two", later)
    np.testing.assert_array_equal(read(tmp_path / "one"), expected("moment2"))
    np.testing.assert_array_equal(read(tmp_path / "two"), 2 * expected("moment2"))


def test_a_process_without_a_launcher_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_memory, "_lent", [])
    memories = [copy_of(rank, monkeypatch) for rank in (0, 1)]
    save(tmp_path / "one", memories)
    for rank in (0, 1):
        damage(tmp_path / "one", rank)
    np.testing.assert_array_equal(read(tmp_path / "one"), expected("moment2"))
    for memory in memories:
        memory.close()
    with pytest.raises(DamagedCheckpointError):
        read(tmp_path / "one")


def test_what_a_process_has_left_is_room_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE_RANK_IN_NODE", "1")
    assert host_memory.taken_bytes() == 0
    copy_of(1, monkeypatch)
    assert 3 * 2400 <= host_memory.taken_bytes() <= 4 * 8192
