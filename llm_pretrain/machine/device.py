"""The device that a process computes on: the choice of it, what it says of itself, copies to it.

A device has a kind: "cpu"; "gpu", which is NVIDIA's, by CUDA; or the name by which Paddle has
another, "xpu" in a build of its own, "npu", "mlu", "gcu" and more by plug-ins. Whatever depends on
the kind asks here. Paddle is imported only by those who choose.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from paddle import Tensor

MEBIBYTE = 2**20

KNOWN = frozenset({"gpu", "xpu", "npu", "mlu", "gcu", "dcu", "iluvatar_gpu", "metax_gpu"})
"""Kinds that a cluster's configuration may name where only a CPU is at hand."""


class DeviceError(ValueError):
    """A kind of device that nobody knows; the message says which there are."""


def kind() -> str:
    """The kind of the device in use, "cpu" in a process that does without Paddle."""
    # Asking must not import Paddle, nor start CUDA.
    paddle = sys.modules.get("paddle")
    return "cpu" if paddle is None else str(paddle.device.get_device()).partition(":")[0]


def accelerators() -> list[str]:
    """The kinds of devices besides the CPU that Paddle can use here."""
    from paddle import device

    found = []
    if device.is_compiled_with_cuda() and device.cuda.device_count() > 0:
        found.append("gpu")
    if device.is_compiled_with_xpu() and device.xpu.device_count() > 0:
        found.append("xpu")
    return [*found, *(device.get_all_custom_device_type() or ())]


def choose(wanted: str | None, *, is_alone: bool) -> None:
    """Compute on the device that is wanted, or on the CPU where that is not there.

    Args:
        wanted: a kind, or a kind with a number, as in "gpu:1"; None takes the first accelerator.
        is_alone: whether the job is this one process, which takes the number that is wanted.
            Of several, each takes the one that the launcher names for it.

    Raises:
        DeviceError: nobody knows such a kind.
    """
    import paddle

    there = accelerators()
    chosen, _, number = (wanted or next(iter(there), "cpu")).partition(":")
    if chosen not in ("cpu", *there, *KNOWN):
        raise DeviceError(
            f"device: Paddle has no {chosen} here; it can be {' or '.join([*there, 'cpu'])}"
        )
    if chosen not in there:
        paddle.device.set_device("cpu")
        return
    if not number or not is_alone:
        # The launcher's variable of a process; a lone one gets all of the machine's.
        in_node = os.environ.get("PADDLE_RANK_IN_NODE", "0")
        number = os.environ.get(f"FLAGS_selected_{chosen}s", in_node).partition(",")[0]
    paddle.device.set_device(f"{chosen}:{number}")
    if chosen == "gpu":
        # An embedding's gradient is added up in an order that changes from run to run otherwise.
        paddle.set_flags({"FLAGS_embedding_deterministic": 1, "FLAGS_cudnn_deterministic": True})


def remark(wanted: str | None) -> str | None:
    """What the user should know of the choice, if there is something."""
    chosen = kind()
    if wanted is not None and wanted.partition(":")[0] != chosen:
        return f"device: {wanted} has no effect: Paddle can use none here."
    if chosen in ("cpu", "gpu"):
        return None
    return f"device: {chosen} has not been tried: the operators are Paddle's (docs/status.md)."


def name() -> str:
    """What the device in use calls itself, for the table of peak rates; else its kind."""
    import paddle

    return str(paddle.device.cuda.get_device_name()) if kind() == "gpu" else kind()


def compute_capability() -> tuple[int, int]:
    """Of the GPU in use, as CUDA counts it; (0, 0) of any other device."""
    import paddle

    if kind() != "gpu":
        return 0, 0
    major, minor = paddle.device.cuda.get_device_capability()
    return int(major), int(minor)


def to_device(array: NDArray[Any]) -> Tensor:
    """A copy of a host's array; the host does not wait for what the device computes."""
    import paddle

    if kind() == "cpu":
        return paddle.to_tensor(array)
    staged = _staged(array)
    copy = paddle.empty(staged.shape, staged.dtype)
    _begin_copy(staged, copy)
    return copy


class CopiesAhead:
    """Copies of a step's arrays by a stream of their own, beside what the device still computes.

    Every step has arrays of the same shapes, and takes the memory of the step before: between the
    two the host must have waited for whatever read it.
    """

    def __init__(self) -> None:
        self.buffers: list[Tensor] = []
        self.stream: Any = None
        # Kept: the end of an event waits for it.
        self.event: Any = None
        self.used = 0

    def copy(self, array: NDArray[Any]) -> Tensor:
        """Begin to copy an array; the copy may be used after `finish`."""
        import paddle
        from paddle import device

        if kind() == "cpu":
            return paddle.to_tensor(array)
        if self.stream is None:
            self.stream, self.event = device.Stream(), device.Event()
        staged = _staged(array)
        if self.used == len(self.buffers):
            self.buffers.append(paddle.empty(staged.shape, staged.dtype))
            # The memory may have been another tensor's a moment ago.
            self.stream.wait_stream(device.current_stream())
        buffer = self.buffers[self.used]
        self.used += 1
        assert buffer.shape == staged.shape
        with device.stream_guard(self.stream):
            _begin_copy(staged, buffer)
        return buffer

    def finish(self) -> None:
        """Let what is computed from here on wait for the copies."""
        from paddle import device

        if self.used:
            self.event.record(self.stream)
            device.current_stream().wait_event(self.event)
        self.used = 0


_leaving: deque[tuple[Any, Tensor]] = deque()
"""Memory of the host that is being copied, each with the event of the copy's end."""


def _staged(array: NDArray[Any]) -> Tensor:
    """An array in memory from which the device copies by itself."""
    import paddle

    place = paddle.CUDAPinnedPlace() if kind() == "gpu" else paddle.CPUPlace()
    return paddle.to_tensor(array, place=place)


def _begin_copy(staged: Tensor, target: Tensor) -> None:
    """Copy in the order of the current stream; what is copied is kept until that is done."""
    from paddle import device

    target.copy_(staged, False)
    while _leaving and _leaving[0][0].query():
        _leaving.popleft()
    event = device.Event()
    event.record()
    _leaving.append((event, staged))


def synchronize() -> None:
    """Wait until an accelerator has done what was queued."""
    if kind() != "cpu":
        import paddle

        paddle.device.synchronize()


def forget_peaks() -> None:
    """Give back what the allocator keeps, and count the peaks of memory from now on."""
    if kind() == "gpu":
        from paddle.device import cuda

        cuda.empty_cache()
        cuda.reset_max_memory_allocated()
        cuda.reset_max_memory_reserved()


def max_memory_allocated() -> float:
    """MiB: the peak of Paddle's allocator, or on a CPU the process's peak resident size."""
    if kind() == "cpu":
        return _peak_resident_bytes() / MEBIBYTE
    return _allocator("max_memory_allocated")


def memory_metrics() -> dict[str, float]:
    """MiB by Paddle's names: its allocator's four numbers, on a CPU `max_memory_allocated`."""
    if kind() == "cpu":
        return {"max_memory_allocated": max_memory_allocated()}
    return {
        "current_memory_allocated": _allocator("memory_allocated"),
        "current_memory_reserved": _allocator("memory_reserved"),
        "max_memory_allocated": _allocator("max_memory_allocated"),
        "max_memory_reserved": _allocator("max_memory_reserved"),
    }


def _allocator(number: str) -> float:
    """MiB: one of the numbers of the allocator; CUDA's functions serve plug-ins too, by name."""
    from paddle import device

    functions = device.xpu if kind() == "xpu" else device.cuda
    return float(getattr(functions, number)(device.get_device())) / MEBIBYTE


def _peak_resident_bytes() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
    # Second choice: on Linux a child starts from its parent's peak here.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) if sys.platform == "darwin" else float(peak) * 1024
