"""Collectives of ranks on one machine through memory that they share, in place of Gloo's sockets.

A group's first rank makes a file in memory that has no name; the others open it through the first
one's process. Ranks of several machines, or without the C++ library, keep to Gloo. Sums are taken
in the order of the ranks, so that every rank of a group gets the same bits, run after run.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from pathlib import Path
from typing import Any

import paddle

from llm_pretrain.ops import internals
from llm_pretrain.ops.native import library
from llm_pretrain.parallel.comm import epochs

_NUMBERS = {
    paddle.float32: 0,
    paddle.bfloat16: 1,
    paddle.float64: 2,
    paddle.int32: 3,
    paddle.int64: 4,
}
"""llm_number of llm_ops_cpu.h."""
_REDUCTIONS = {internals.SUM: 0, internals.MAX: 1}
"""llm_reduction."""
_SPINS = 2000
"""Some tens of microseconds, less than it takes to sleep and to be woken."""

# Before they are replaced.
_all_reduce = internals.ProcessGroupGloo.all_reduce
_all_gather = internals.ProcessGroupGloo.all_gather_into_tensor

library.declare(
    shared_open="p",
    shared_close="p",
    shared_barrier="p",
    shared_all_reduce="pnpii",
    shared_all_gather="pnpp",
    shared_reduce_scatter="pnppii",
    shared_broadcast="pnpn",
    shared_send="pnpn",
    shared_receive="pnpn",
)


class _Handle(ctypes.Structure):
    """llm_shared of llm_ops_cpu.h."""

    _fields_ = [
        ("region", ctypes.c_void_p),
        ("ranks", ctypes.c_int64),
        ("rank", ctypes.c_int64),
        ("spins", ctypes.c_int64),
        ("uses", ctypes.c_int64),
        ("stop", ctypes.POINTER(ctypes.c_int)),
        ("file", ctypes.c_int),
    ]


_stop = ctypes.c_int(0)
"""Set by another thread when an epoch is over: whoever waits for a rank gets an error."""


class SharedMemory:
    """A group's memory, as this rank has it.

    Args:
        file: the descriptor of the open file.
    """

    def __init__(self, file: int, ranks: int, rank: int) -> None:
        is_crowded = int(os.environ.get("PADDLE_LOCAL_SIZE", ranks)) > len(os.sched_getaffinity(0))
        spins = 0 if is_crowded else _SPINS
        self._handle = _Handle(None, ranks, rank, spins, 0, ctypes.pointer(_stop), file)
        library.call("shared_open", self._handle)

    def close(self) -> None:
        """Give the memory back; no thread may be in a collective."""
        library.call("shared_close", self._handle)

    def reduces(self, tensor: Any, operation: Any) -> bool:
        """Whether `all_reduce` and `reduce_scatter` take such numbers."""
        return tensor.dtype in _NUMBERS and operation in _REDUCTIONS

    def all_reduce(self, tensor: Any, operation: Any) -> None:
        """Reduce in place."""
        values = library.packed(tensor)
        library.call(
            "shared_all_reduce",
            self._handle,
            library.count(values),
            values,
            _NUMBERS[tensor.dtype],
            _REDUCTIONS[operation],
        )
        if values is not tensor:
            tensor.copy_(values, True)

    def all_gather(self, whole: Any, part: Any) -> None:
        library.call(
            "shared_all_gather", self._handle, _bytes_of(part), library.packed(part), whole
        )

    def reduce_scatter(self, part: Any, whole: Any, operation: Any) -> None:
        library.call(
            "shared_reduce_scatter",
            self._handle,
            library.count(part),
            library.packed(whole),
            part,
            _NUMBERS[whole.dtype],
            _REDUCTIONS[operation],
        )

    def broadcast(self, tensor: Any, source: int) -> None:
        library.call("shared_broadcast", self._handle, _bytes_of(tensor), tensor, source)

    def send(self, tensor: Any, target: int) -> None:
        values = library.packed(tensor)
        library.call("shared_send", self._handle, _bytes_of(tensor), values, target)

    def receive(self, tensor: Any, source: int) -> None:
        library.call("shared_receive", self._handle, _bytes_of(tensor), tensor, source)

    def barrier(self) -> None:
        library.call("shared_barrier", self._handle)


def _bytes_of(tensor: Any) -> int:
    return library.count(tensor) * int(tensor.element_size())


def join(group: Any, ranks: int, rank: int) -> SharedMemory | None:
    """The memory of a Gloo group that has just been formed; None, on all ranks, where they are on
    several machines or one of them can't have it. Every rank of the group calls it."""
    _stop.value = 0
    epochs.at_end(_stop_waiting)
    file = os.memfd_create("llm_pretrain", os.MFD_CLOEXEC) if rank == 0 else -1
    own = [_machine(), os.getpid(), file, int(library.find()[0] is not None)]
    everyone = paddle.empty([ranks, len(own)], "int64")
    _all_gather(group, everyone, paddle.to_tensor([own], dtype="int64"), True).wait()
    machines, processes, files, can = zip(*everyone.tolist(), strict=True)
    memory = None
    if len(set(machines)) == 1 and all(can):
        try:
            if rank != 0:
                file = os.open(f"/proc/{processes[0]}/fd/{files[0]}", os.O_RDWR | os.O_CLOEXEC)
            memory = SharedMemory(file, ranks, rank)
        except (OSError, RuntimeError):
            memory = None
    have = paddle.to_tensor([int(memory is not None)], dtype="int64")
    _all_reduce(group, have, internals.SUM, True).wait()
    if int(have) == ranks:
        return memory
    if memory is not None:
        memory.close()
    elif file >= 0:
        os.close(file)
    return None


def _stop_waiting() -> None:
    _stop.value = 1


def _machine() -> int:
    """A number of this machine, and of the part of it that this process can reach."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    spaces = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "net", "user")]
    digest = hashlib.sha256("".join([boot, *spaces]).encode()).digest()
    return int.from_bytes(digest[:7], "big")
