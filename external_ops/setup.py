"""Compiles csrc/cpu into llm_pretrain_ops/_cpu.*.so with the C++ compiler of the machine.

The library calls oneDNN and OpenMP through the copies that Paddle brings and has loaded: it is
linked with neither, so that a process has one pool of threads. Only oneDNN's headers are needed,
which come as a wheel.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
# The headers of oneDNN 3.6, which is the version in Paddle 3.3. The wheel's own requirement, the
# library itself, is not wanted: hence no build requirement.
HEADERS = "onednn-devel==2025.0.1"


class BuildLibrary(build_ext):
    """A plain shared library in place of a Python extension module."""

    def build_extension(self, ext: Extension) -> None:
        with tempfile.TemporaryDirectory() as folder:
            ext.include_dirs.append(str(headers(Path(folder))))
            super().build_extension(ext)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []


def headers(folder: Path) -> Path:
    """The folder of oneDNN's headers, fetched with pip into `folder`."""
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*download, "--dest", str(folder), HEADERS], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return next(folder.glob("*.data/data/include"))


setup(
    ext_modules=[
        Extension(
            "llm_pretrain_ops._cpu",
            sources=sorted(str(path.relative_to(HERE)) for path in HERE.glob("csrc/cpu/*.cc")),
            depends=sorted(str(path.relative_to(HERE)) for path in HERE.glob("csrc/cpu/*.h")),
            include_dirs=["csrc/cpu"],
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-fopenmp",
                "-fvisibility=hidden",
                "-ffp-contract=fast",
                "-fno-math-errno",
                "-fno-trapping-math",
            ],
            language="c++",
        )
    ],
    cmdclass={"build_ext": BuildLibrary},
)
