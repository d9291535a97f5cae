"""The operators that Paddle's binding registers: whether they are there, and calls of them."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import paddle
from paddle import Tensor

from llm_pretrain.machine import device

HOW_TO_BUILD = "cd external_ops/csrc/paddle_cuda && python setup.py install builds them"
DTYPES = (paddle.float32, paddle.bfloat16, paddle.float16)

_MODULE = "llm_ops_cuda"


def is_device() -> bool:
    """Whether this process computes on a device of CUDA."""
    return device.kind() == "gpu"


def is_on_device(x: Tensor) -> bool:
    return bool(x.place.is_gpu_place())


def find() -> tuple[ModuleType | None, str]:
    """The module, or None; and its name, or why there is none."""
    try:
        return importlib.import_module(_MODULE), _MODULE
    except (ImportError, OSError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == _MODULE:
            return None, f"the CUDA operators are not built ({HOW_TO_BUILD})"
        problem = str(error).partition("\n")[0]
        return None, f"the CUDA operators can't be loaded: {problem} ({HOW_TO_BUILD})"


def call(name: str, *arguments: Any) -> Any:
    """Call llm_ops_<name>, which takes tensors of any strides and returns its results, of which one
    is no list.

    Raises:
        OSError: the operator refused, as Paddle has it of its extensions.
    """
    module, reason = find()
    assert module is not None, reason
    return getattr(module, f"llm_ops_{name}")(*arguments)


def serves(*operands: Tensor | None) -> bool:
    """Whether operands are of a kind that operators take; None is no operand."""
    return all(
        x is None or (x.dtype in DTYPES and is_on_device(x) and x.size > 0) for x in operands
    )


def holds(dtype: paddle.dtype, *tensors: Tensor) -> bool:
    """Whether values of the tensors are values of `dtype`, too: operators have one dtype."""
    return dtype == paddle.float32 or all(x.dtype == dtype for x in tensors)
