"""The CUDA kernels compiled for the emulated device (external_ops/gpu/emulation)."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "external_ops/csrc/cuda"
EMULATION = ROOT / "external_ops/gpu/emulation"


def compiled(source: Path, folder: Path, *flags: str) -> Path:
    """A kernel for the CPU; what it includes is in csrc/cuda, wherever it is itself."""
    target = folder / f"{source.stem}.o"
    includes = [f"-I{EMULATION}", f"-I{KERNELS}"]
    options = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", *flags, *includes]
    subprocess.run(["g++", "-x", "c++", *options, "-c", source, "-o", target], check=True)
    return target


def all_compiled(folder: Path, *flags: str) -> list[Path]:
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(
            pool.map(lambda path: compiled(path, folder, *flags), sorted(KERNELS.glob("*.cu")))
        )
