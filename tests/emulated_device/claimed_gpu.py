"""The emulated device as a GPU: Paddle's public functions answer as where the device is NVIDIA's,
and the CUDA operators are built for it. So the program takes every path of a GPU.

As a program: pretrains on such a GPU, as run_pretrain.py does. CLAIMED_GPU_OPERATORS names the
library of the operators; without it they are not built. The clock knows no time: as
CLAIMED_GPU_CLOCK says, whatever is timed is faster than what came before, "falling", or slower,
"rising", or one on even ranks and the other on odd ones, "differing".
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.emulated_device.compile_plugin import (
    DEVICE,
    KEPT,
    LIBRARIES,
    SOURCES,
    environment,
)

NAME, CAPABILITY = "NVIDIA H100 80GB HBM3", (9, 0)
OPERATORS, CLOCK = "CLAIMED_GPU_OPERATORS", "CLAIMED_GPU_CLOCK"
_HEADERS = SOURCES / "gpu"


class ClaimedGPU:
    """What Paddle says of its GPUs, over the emulated devices.

    Attributes:
        flags: of GPUs alone, which the CPU's Paddle does not know, as they were set.
    """

    def __init__(self) -> None:
        import paddle

        self.flags: dict[str, Any] = {}
        self._paddle = paddle
        self._set_flags, self._get_flags = paddle.set_flags, paddle.get_flags
        self._set_device, self._get_device = paddle.device.set_device, paddle.device.get_device

    def install(self) -> None:
        """Let Paddle's functions answer as a GPU's, until the process ends."""
        paddle, device = self._paddle, self._paddle.device
        # The launcher's name for the devices of a process; Paddle itself goes on by the other.
        selected = "FLAGS_selected_{}s".format
        if selected(DEVICE) in os.environ:
            os.environ[selected("gpu")] = os.environ[selected(DEVICE)]
        paddle.set_flags, paddle.get_flags = self.set_flags, self.get_flags
        device.is_compiled_with_cuda = lambda: True
        paddle.CUDAPinnedPlace = paddle.CPUPlace
        device.set_device, device.get_device = self.set_device, self.get_device
        count = len(device.get_available_custom_device())
        cuda = device.cuda
        cuda.device_count = lambda: count
        cuda.get_device_name = lambda *_: NAME
        cuda.get_device_capability = lambda *_: CAPABILITY
        cuda.empty_cache = lambda: None
        for name in ("memory_allocated", "memory_reserved"):
            for function in (name, f"max_{name}"):
                setattr(cuda, function, self._of_device(getattr(cuda, function)))
            reset = getattr(device, f"reset_max_{name}")
            setattr(cuda, f"reset_max_{name}", self._of_device(reset))
        place = type(paddle.zeros([1]).place)
        place.is_gpu_place = place.is_custom_place

    def set_flags(self, flags: dict[str, Any]) -> None:
        for name, value in flags.items():
            try:
                self._set_flags({name: value})
            except ValueError:
                self.flags[name] = value

    def get_flags(self, names: str | list[str]) -> dict[str, Any]:
        names = [names] if isinstance(names, str) else names
        ours = {name: self.flags[name] for name in names if name in self.flags}
        others = [name for name in names if name not in ours]
        return {**ours, **(self._get_flags(others) if others else {})}

    def set_device(self, name: str) -> Any:
        return self._set_device(name.replace("gpu", DEVICE))

    def get_device(self) -> str:
        return str(self._get_device()).replace(DEVICE, "gpu")

    def _of_device(self, function: Any) -> Any:
        def of_device(name: str | None = None) -> Any:
            return function((name or self.get_device()).replace("gpu", DEVICE))

        return of_device


def build_operators() -> Path:
    """The library of the CUDA operators for the emulated device; kept by what goes into it."""
    from tests.external_ops.emulated_kernels import EMULATION, KERNELS
    from tests.ops.cuda import emulated

    folders = KERNELS, KERNELS.parent / "paddle_cuda", EMULATION, _HEADERS
    sources = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
    sources.append(SOURCES / "device.h")
    wheel = importlib.metadata.version("paddlepaddle")
    texts = "\0".join([wheel, *(path.read_text() for path in sources)])
    target = KEPT / f"{emulated.NAME}-{hashlib.sha256(texts.encode()).hexdigest()[:16]}.so"
    if not target.exists():
        flags = [f"-I{_HEADERS}", f"-I{SOURCES}", "-DPADDLE_WITH_CUSTOM_DEVICE"]
        flags.append(f"-isystem{emulated.PADDLE / 'include'}")
        with tempfile.TemporaryDirectory(dir=KEPT) as name:
            emulated.build(Path(name), *flags, libraries=LIBRARIES).rename(target)
    return target


def gpu_environment(
    *, with_operators: bool, clock: str = "falling", **settings: object
) -> dict[str, str]:
    """Variables of a process whose device claims to be a GPU, see `compile_plugin.environment`."""
    operators = {OPERATORS: str(build_operators())} if with_operators else {}
    return {**environment(**settings), **operators, CLOCK: clock}


def install() -> ClaimedGPU:
    """What this process's variables say."""
    from llm_pretrain.ops import dispatch

    gpu = ClaimedGPU()
    gpu.install()
    if os.environ.get(OPERATORS):
        from tests.ops.cuda import emulated

        sys.modules[emulated.NAME] = emulated.loaded(Path(os.environ[OPERATORS]))
    is_odd = int(os.environ.get("PADDLE_TRAINER_ID", "0")) % 2 == 1
    rises = {"falling": False, "rising": True, "differing": is_odd}
    ratio = 1.2 if rises[os.environ.get(CLOCK, "falling")] else 1 / 1.2
    times = itertools.accumulate(itertools.repeat(ratio), lambda time, by: time * by, initial=1e9)

    def duration(compute: Any) -> int:
        compute()
        return round(next(times))

    dispatch.nanoseconds = duration
    return gpu


def main(arguments: list[str]) -> int:
    from llm_pretrain.training.run import run

    install()
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
