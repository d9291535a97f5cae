"""Where this rank is, for its watch to read, and how long it has waited for other ranks.

Nobody is asked and nothing is waited for: a place is some bytes of memory that two processes share.
"""

from __future__ import annotations

import mmap
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from llm_pretrain.parallel.comm.places import PLACE


class _Progress:
    def __init__(self) -> None:
        self.count = 0
        self.step = 0
        self.name = ""
        self.is_limited = False
        self.waited = 0.0
        self.seconds = self.last_waited = 0.0
        """Of the last step, and how much of it this rank waited."""
        self.file: BinaryIO | None = None
        self.memory: mmap.mmap | None = None

    def write(self, *, waits: bool) -> None:
        self.count += 1
        if self.memory is not None:
            name = self.name.encode()[:80]
            PLACE.pack_into(self.memory, 0, self.count, self.step, waits, self.is_limited, name)


_progress = _Progress()


def leave_places_in(file: BinaryIO) -> None:
    """Have where this process is written to `file`, which others read."""
    file.truncate(PLACE.size)
    _progress.file, _progress.memory = file, mmap.mmap(file.fileno(), PLACE.size)


def place_file() -> BinaryIO:
    """The file in which this process leaves where it is: one without a name, unless it was given
    another."""
    if _progress.file is None:
        leave_places_in(tempfile.TemporaryFile())  # noqa: SIM115 (open as long as the process)
    assert _progress.file is not None
    return _progress.file


def begin(name: str, step: int = 0) -> float:
    """From here to `end` no place may hold this rank for longer than the time-out.

    Returns:
        The time, for `end`.
    """
    _progress.is_limited, _progress.step, _progress.waited = True, step, 0.0
    at(name)
    return time.perf_counter()


def end(began: float) -> float:
    """What follows may take its time; the seconds since `begin`."""
    _progress.is_limited = False
    at("what follows a step")
    _progress.seconds, _progress.last_waited = time.perf_counter() - began, _progress.waited
    return _progress.seconds


@contextmanager
def limited(name: str) -> Iterator[None]:
    """Within the block no place may hold this rank for longer than the time-out."""
    _progress.is_limited = True
    at(name)
    try:
        yield
    finally:
        _progress.is_limited = False
        at("what follows")


def at(name: str) -> None:
    """This rank is at another place."""
    _progress.name = name
    _progress.write(waits=False)


def own_seconds() -> float:
    """What of the last step this rank did not wait for others."""
    return max(_progress.seconds - _progress.last_waited, 0.0)


def waiting_share() -> float:
    """What of the last step this rank waited for others.

    On an accelerator it is the host that waits, and mostly for the device.
    """
    return _progress.last_waited / _progress.seconds if _progress.seconds else 0.0


@contextmanager
def waiting(name: str) -> Iterator[None]:
    """Within the block this rank waits for others."""
    before, _progress.name = _progress.name, name
    _progress.write(waits=True)
    began = time.perf_counter()
    try:
        yield
    finally:
        # Left as it stands by an error: whoever asks then learns where it came from.
        _progress.waited += time.perf_counter() - began
    _progress.name = before
    _progress.write(waits=False)
