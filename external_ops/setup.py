"""Packs the library that compile_cpu.py makes, as llm_pretrain_ops/_cpu.*.so."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# pip builds without this folder among the imports.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from compile_cpu import compile_library


class BuildLibrary(build_ext):
    """A plain shared library in place of a Python extension module."""

    def build_extension(self, ext: Extension) -> None:
        path = Path(self.get_ext_fullpath(ext.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(compile_library(), path)


setup(
    ext_modules=[Extension("llm_pretrain_ops._cpu", sources=[])],
    cmdclass={"build_ext": BuildLibrary},
)
