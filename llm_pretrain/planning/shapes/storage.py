"""Memory that is counted and never held: who takes it, for what, and when it goes.

The one recorder of a process writes the events of a trace. What memory is for follows from who asks
for it: the innermost function of the program on the stack, by the file or the name it has there.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

from llm_pretrain.planning.trace import Allocation, Event, Mark, Part, Phase, Release

_BY_PLACE: dict[str, Part] = {
    "flat_buffers.py": "weights",
    "flat_buffers.py:_master": "optimizer",
    "flat_gradients.py": "gradients",
    "gradients.py": "gradients",
    "optimizer.py": "optimizer",
    "adamw.py": "optimizer",
    "collectives.py": "communication",
    "executor.py:start_receive": "communication",
    "vocabulary.py:losses_of_logits": "logits",
    "vocabulary_slices.py": "logits",
    "linear_cross_entropy.py": "logits",
    "layers.py:weight_of_layer": "weights",
    "operands.py:_packed": "weights",
    "executor.py:do": "activations",
    "program.py:_train": "activations",
}
"""By a file of the program, or a function in it. Nobody further out than the last two says more."""


class Recorder:
    """Writes the events of one trace after another."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.last = Mark("start")
        self.number = 0
        """Of the newest memory."""
        self.first = 1
        self._parts: dict[int, tuple[Part | None, CodeType]] = {}
        """By the address of what runs, which is held so that it stays: its hash is that of all of
        its instructions."""

    @contextmanager
    def recording(self) -> Iterator[list[Event]]:
        """The events of the block. Memory of before plays no part in them."""
        self.events, self.last, self.first = [], Mark("start"), self.number + 1
        # What only the collector could free, a backward pass that never came, Paddle never frees.
        is_collecting = gc.isenabled()
        gc.disable()
        try:
            yield self.events
        finally:
            self.events = []
            if is_collecting:
                gc.enable()

    def take(self, size: int) -> int:
        self.number += 1
        self.events.append(Allocation(self.number, size, self._part()))
        return self.number

    def give_back(self, number: int) -> None:
        if number >= self.first:
            self.events.append(Release(number))

    def mark(
        self,
        phase: Phase,
        micro_batch: int | None = None,
        chunk: int | None = None,
        block: int | None = None,
    ) -> None:
        self.last = Mark(phase, micro_batch, chunk, block)
        self.events.append(self.last)

    def _part(self) -> Part:
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            code = frame.f_code
            known = self._parts.get(id(code))
            if known is None:
                file = code.co_filename.rpartition("/")[2]
                by_function = _BY_PLACE.get(f"{file}:{code.co_name}")
                known = self._parts[id(code)] = by_function or _BY_PLACE.get(file), code
            if known[0] is not None:
                return known[0]
            frame = frame.f_back
        return "activations"


recorder = Recorder()


class Storage:
    """A piece of memory, held for as long as anything refers to this."""

    __slots__ = ("number", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.number = recorder.take(size)

    def __del__(self) -> None:
        # A module's names are gone when its process ends.
        if recorder is not None:
            recorder.give_back(self.number)


class DType:
    """What stands for one of Paddle's dtypes."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.itemsize = name, size

    def __repr__(self) -> str:
        return f"paddle.{self.name}"


DTYPES = {
    name: DType(name, size)
    for name, size in (
        ("float64", 8),
        ("float32", 4),
        ("bfloat16", 2),
        ("float16", 2),
        ("int64", 8),
        ("int32", 4),
        ("int16", 2),
        ("uint8", 1),
        ("bool", 1),
    )
}


def dtype_of(given: str | DType) -> DType:
    """The dtype of a name, or itself."""
    return DTYPES[given] if isinstance(given, str) else given
