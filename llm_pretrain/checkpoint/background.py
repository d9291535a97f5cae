"""Checkpoints that a process of their own writes, from a copy of the state, while training goes on.

A save has the phases of `checkpoint.part`. Each rank's process does one after the other; the next
begins on all ranks when it has ended on all, which the ranks learn of as they train.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import mmap
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.utils import dlpack

from llm_pretrain.checkpoint import writer
from llm_pretrain.checkpoint.optimizer_state import VALUES, slices_to_block
from llm_pretrain.checkpoint.part import CheckpointPart
from llm_pretrain.checkpoint.safetensors_file import NUMPY_TYPES
from llm_pretrain.checkpoint.save import (
    FailedSaveError,
    RangeOfBucket,
    SavedState,
    raise_first,
    written_of_all_stages,
)
from llm_pretrain.checkpoint.write_weights import WrittenTensor
from llm_pretrain.checkpoint.writer import ArrayInMemory, to_message
from llm_pretrain.machine import environment_without_choices
from llm_pretrain.machine.files import describe
from llm_pretrain.parallel.comm import collectives
from llm_pretrain.parallel.sharding.pieces import named_pieces

_MADV_POPULATE_WRITE = 23
_ALIGNMENT = 4096
_FLOAT32_BYTES = 4


class HostMemory:
    """Memory that other processes can map by its descriptor; it has no name to leave behind."""

    def __init__(self, size: int) -> None:
        self.descriptor = os.memfd_create("llm_pretrain_checkpoint")
        os.ftruncate(self.descriptor, size)
        self.map = mmap.mmap(self.descriptor, size)
        # Its pages are made while training goes on; the first copy would wait for them.
        self._populating = threading.Thread(target=self._populate, args=(size,), daemon=True)
        self._populating.start()

    def _populate(self, size: int) -> None:
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(address), ctypes.c_size_t(size), _MADV_POPULATE_WRITE
        )

    def copy(self, tensor: Tensor, entry: ArrayInMemory) -> None:
        """Put the tensor's values at the entry's place."""
        self._populating.join()
        place: np.ndarray = np.ndarray(entry.shape, entry.dtype, self.map, entry.offset)
        if tensor.dtype == paddle.float32 and tensor.is_contiguous():
            # Without a second copy on the way.
            dlpack.from_dlpack(place).copy_(tensor, True)
        else:
            place[...] = tensor.clone().numpy()

    def close(self) -> None:
        self._populating.join()
        os.close(self.descriptor)


def free_memory() -> int:
    """Bytes that programs of this machine, or of this container, could still take."""
    lines = dict(line.split(":") for line in _read("/proc/meminfo").splitlines() if ":" in line)
    kilobytes = lines.get("MemAvailable", "0 kB").split()[0]
    free = [int(kilobytes) * 1024]
    limit, used = (_read(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        # What files have in memory counts as used, though it makes room when asked to.
        files = re.search(r"^inactive_file (\d+)$", _read("/sys/fs/cgroup/memory.stat"), re.M)
        free.append(int(limit) - int(used) + int(files[1] if files else 0))
    return max(min(free), 0)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


class CopyPlan:
    """Where each value of the state stands in the copy.

    The shards of a bucket are copied whole. Weights that are the masters' values, in float32 on
    ranks that hold all of them, are taken from there.
    """

    def __init__(self, saved: SavedState) -> None:
        self.size = 0
        self.buckets: list[dict[str, ArrayInMemory]] = []
        """Each bucket's shards, by kind of value; [] where another rank writes the same."""
        self.weights: list[ArrayInMemory] = []
        """Of this rank's stage, whole; [] where another rank writes them."""
        degrees = saved.topology.degrees
        if saved.ranges is not None:
            self.buckets = [
                {name: self._placed(name, "<f4", (bucket.buffer.shard_size,)) for name in VALUES}
                for bucket in saved.optimizer.buckets
            ]
        self.weights_are_masters = degrees.sharding == degrees.tensor == 1 and all(
            parameter.dtype == paddle.float32 for parameter in saved.stage.parameters()
        )
        self.gathers_weights = not self.weights_are_masters
        if saved.weights_part is None:
            return
        if self.weights_are_masters:
            self.weights = list(self._in_masters(saved))
            return
        dtype = NUMPY_TYPES[saved.weights_part.dtype].str
        self.weights = [
            self._placed(piece.name, dtype, piece.shape) for _, piece in named_pieces(saved.stage)
        ]

    def _placed(self, name: str, dtype: str, shape: tuple[int, ...]) -> ArrayInMemory:
        entry = ArrayInMemory(name, dtype, shape, self.size)
        size = math.prod(shape) * np.dtype(dtype).itemsize
        self.size += -(-size // _ALIGNMENT) * _ALIGNMENT
        return entry

    def _in_masters(self, saved: SavedState) -> Iterator[ArrayInMemory]:
        places = {
            id(placement.parameter): entries["master"].offset + placement.begin * _FLOAT32_BYTES
            for bucket, entries in zip(saved.optimizer.buckets, self.buckets, strict=True)
            for placement in bucket.buffer.placements
        }
        for parameter, piece in named_pieces(saved.stage):
            yield ArrayInMemory(
                piece.name,
                "<f4",
                tuple(parameter.shape),
                places[id(parameter)],
                slices_to_block(piece.region(0, 1)),
            )

    def shards(self, ranges: Sequence[RangeOfBucket]) -> Iterator[ArrayInMemory]:
        """The values of every saved range, named as in the file."""
        for saved, bucket, begin, end in ranges:
            for value in VALUES:
                whole = self.buckets[bucket][value]
                offset = whole.offset + begin * _FLOAT32_BYTES
                yield replace(
                    whole, name=f"{saved.key}/{value}", shape=(end - begin,), offset=offset
                )


class BackgroundSave:
    """The saves of one rank, one after another; every rank has one, and calls it alike.

    Close it in the end: what is not published by then is given up.
    """

    def __init__(self, saved: SavedState, plan: CopyPlan) -> None:
        self.saved = saved
        self.plan = plan
        self.memory = HostMemory(max(plan.size, 1))
        self.part: CheckpointPart | None = None
        """Of the save that is under way."""
        self._phase = ""
        self._process: WriterProcess | None = None
        self._answer: Future[dict[str, Any]] = Future()
        """To the last request."""

    def begin(self, part: CheckpointPart) -> None:
        """Copy the state, and begin to write it as `part`. Training may go on."""
        assert self.part is None, "one after another"
        self._copy()
        self.part = part
        if self._process is not None and self._process.has_ended():
            self._process.end()
            self._process = None
        if self._process is None:
            try:
                self._process = WriterProcess(self.memory.descriptor)
            except OSError as error:
                self._phase, self._answer = "prepare", Future()
                self._answer.set_result({"problem": describe(error), "written": {}})
                return
        self._ask("prepare", part=to_message(part))

    @paddle.no_grad()
    def _copy(self) -> None:
        saved, plan = self.saved, self.plan
        states = [tensors for _, tensors in saved.optimizer.state()]
        for entries, tensors in zip(plan.buckets, states, strict=False):
            for value, entry in entries.items():
                self.memory.copy(tensors[value], entry)
        if not plan.gathers_weights:
            return
        places = {entry.name: entry for entry in plan.weights}
        for name, tensor in saved.weights():
            if places:
                self.memory.copy(tensor, places[name])

    def _ask(self, phase: str, **request: Any) -> None:
        assert self._process is not None
        self._phase = phase
        self._answer = self._process.answer({"phase": phase, **request})

    @property
    def is_busy(self) -> bool:
        """Whether this rank's process has not ended its phase."""
        return self.part is not None and not self._answer.done()

    def advance(self) -> Path | None:
        """Begin the next phase; every rank calls it when no rank is busy.

        Returns:
            The checkpoint, if it is published now.

        Raises:
            FailedSaveError: on every rank alike; nothing is left of the checkpoint.
        """
        part = self.part
        assert part is not None
        answer = self._answer.result()
        try:
            raise_first(collectives.gather_texts(answer["problem"]))
        except FailedSaveError:
            self.part = None
            part.give_up()
            raise
        if self._phase == "prepare":
            self._ask(
                "write",
                shards=[asdict(entry) for entry in self.plan.shards(self.saved.ranges or ())],
                weights=[asdict(entry) for entry in self.plan.weights],
            )
        elif self._phase == "write":
            written = {name: WrittenTensor(*entry) for name, entry in answer["written"].items()}
            self._ask("publish", written=written_of_all_stages(written, self.saved.topology))
        else:
            self.part = None
            return part.checkpoint
        return None

    def wait(self) -> Path:
        """Return when the checkpoint that is under way is published; every rank calls it.

        Raises:
            FailedSaveError: as `advance`.
        """
        while True:
            self._answer.result()
            collectives.barrier()
            published = self.advance()
            if published is not None:
                return published

    def close(self) -> None:
        if self._process is not None:
            self._process.end()
        self.memory.close()


class WriterProcess:
    """The process that writes (`checkpoint.writer`), as its rank sees it."""

    def __init__(self, descriptor: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", writer.__name__, str(descriptor), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(descriptor,),
            env=environment_without_choices(),
            text=True,
        )
        self._exchanging: threading.Thread | None = None

    def answer(self, request: Mapping[str, Any]) -> Future[dict[str, Any]]:
        """Send a request; its answer will be there."""
        answer: Future[dict[str, Any]] = Future()
        # Neither a pipe that is full nor one that is empty may hold up the training.
        arguments = json.dumps(request), answer
        self._exchanging = threading.Thread(target=self._exchange, args=arguments, daemon=True)
        self._exchanging.start()
        return answer

    def _exchange(self, request: str, answer: Future[dict[str, Any]]) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
            answer.set_result(json.loads(self._process.stdout.readline()))
        except (OSError, ValueError):  # ValueError: it ended in the middle of a line, or before
            status = self._process.wait()
            problem = f"the process that writes checkpoints has ended with status {status}"
            answer.set_result({"problem": problem, "written": {}})

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> None:
        """End the process at once, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        if self._exchanging is not None:
            self._exchanging.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what it has not read is lost
                pipe.close()
