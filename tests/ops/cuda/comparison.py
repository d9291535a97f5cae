"""An operator by the CUDA kernels and by its reference."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from paddle import Tensor

from llm_pretrain.ops import dispatch
from tests.ops.comparison import close, results
from tests.ops.cuda import emulated

BOUNDS = {"float32": 3e-6, "bfloat16": 1.2e-2, "float16": 2e-3}
"""Largest difference, relative to the largest value: a few roundings of the type."""


def check(
    cuda: ModuleType, operator: Callable, *operands: Tensor, bound: float, called: set[str]
) -> None:
    """Values and gradients are the reference's, and those kernels were called for them."""
    dispatch.use_references()
    expected = results(operator, list(operands))
    emulated.serve()
    cuda.calls.clear()
    found = results(operator, list(operands))
    assert set(cuda.calls) == called
    close(found, expected, bound)
