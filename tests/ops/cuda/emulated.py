"""Paddle's binding of the CUDA kernels (external_ops/csrc/paddle_cuda) for the emulated device: its
operators are registered with the Paddle that is installed, and run on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import paddle
import pytest
from paddle.utils.cpp_extension import load_op_meta_info_and_register_op
from paddle.utils.cpp_extension.extension_utils import _custom_api_content

from llm_pretrain.ops import OPERATORS
from llm_pretrain.ops.cuda import library
from llm_pretrain.ops.operator import CUDA
from tests.external_ops.emulated_kernels import ROOT, all_compiled, compiled

NAME = "llm_ops_cuda"
PADDLE = Path(paddle.__file__).parent


def build(folder: Path, *flags: str, libraries: tuple[str, ...] = ()) -> Path:
    """The library that `python setup.py install` builds where Paddle has CUDA.

    Args:
        flags: of the compiler; folders of headers among them come before the emulation's.
        libraries: what is linked besides.
    """
    headers = PADDLE / "include"
    folders = [headers, headers / "third_party", headers / "paddle/phi/api/include/compat"]
    binding = ROOT / "external_ops/csrc/paddle_cuda/binding.cc"
    with ThreadPoolExecutor(max_workers=1) as pool:
        bound = pool.submit(
            compiled, binding, folder, *flags, *(f"-isystem{path}" for path in folders)
        )
        objects = all_compiled(folder, *flags)
    target = folder / f"{NAME}.so"
    places = [PADDLE / "base", PADDLE / "libs"]
    names = ("libpaddle.so", "libphi.so", "libphi_core.so", "libcommon.so")
    subprocess.run(
        ["g++", "-shared", bound.result(), *objects, "-o", target]
        + [f"-L{place}" for place in places]
        + [f"-Wl,-rpath,{place}" for place in places]
        + [f"-l:{name}" for name in names]
        + list(libraries),
        check=True,
    )
    return target


def loaded(path: Path) -> ModuleType:
    """What `import llm_ops_cuda` gives there, but that `calls` has the names of what was called."""
    module = ModuleType(NAME)
    module.calls = []
    for operator in load_op_meta_info_and_register_op(os.fspath(path)):
        # The installed module is made of the same text.
        exec(_custom_api_content(operator), module.__dict__)
        setattr(module, operator, _noted(getattr(module, operator), operator, module.calls))
    return module


def _noted(function: Callable[..., Any], name: str, calls: list[str]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        calls.append(name.removeprefix("llm_ops_"))
        return function(*arguments)

    return call


def install(module: ModuleType | None, patch: pytest.MonkeyPatch) -> None:
    """Let the CPU be a device of CUDA, on which `module` is installed, or nothing."""
    patch.setitem(sys.modules, NAME, module)  # None: importing it fails
    patch.setattr(library, "is_device", lambda: True)
    patch.setattr(library, "is_on_device", lambda x: x.place.is_cpu_place())


def serve() -> None:
    """Let every operator that there is serve, untested."""
    for operator in OPERATORS.values():
        if operator.implementations[CUDA] is not None:
            operator.serve_by(CUDA)
