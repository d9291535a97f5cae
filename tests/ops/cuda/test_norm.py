"""Norms by the CUDA kernels."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from llm_pretrain import ops
from tests.ops.comparison import normal
from tests.ops.cuda import emulated
from tests.ops.cuda.comparison import BOUNDS, check

RMS, LAYER = ({name, f"{name}_backward"} for name in ("rms_norm", "layer_norm"))
EPSILON = 1e-5
NORMS: dict[str, tuple[Callable, str, set[str]]] = {
    "rms_norm": (lambda x, w: ops.rms_norm(x, w, EPSILON), "xw", RMS),
    "layer_norm": (lambda x, w, b: ops.layer_norm(x, w, b, EPSILON), "xwb", LAYER),
    "add_rms_norm": (lambda x, y, w: ops.add_rms_norm(x, y, w, EPSILON), "xyw", RMS),
    "add_layer_norm": (lambda x, y, w, b: ops.add_layer_norm(x, y, w, b, EPSILON), "xywb", LAYER),
}
WITH_ADDITION = ["add_rms_norm", "add_layer_norm"]


def check_norm(
    cuda: ModuleType,
    name: str,
    width: int,
    *,
    x: str,
    branch: str,
    weight: str,
    bound: float,
    is_called: bool = True,
) -> None:
    """Compare a norm of operands of those dtypes."""
    norm, letters, called = NORMS[name]
    given = {
        "x": normal(x, 2, 3, width),
        "y": normal(branch, 6, width).reshape([2, 3, width]),
        "w": normal(weight, width),
        "b": normal(weight, width, 1).flatten(),
    }
    operands = [given[letter] for letter in letters]
    check(cuda, norm, *operands, bound=bound, called=called if is_called else set())


@pytest.mark.parametrize("width", [24, 33])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", NORMS)
def test_in_one_dtype(cuda: ModuleType, name: str, dtype: str, width: int) -> None:
    check_norm(cuda, name, width, x=dtype, branch=dtype, weight=dtype, bound=BOUNDS[dtype])


@pytest.mark.parametrize("name", WITH_ADDITION)
def test_a_float32_stream_and_a_bfloat16_branch(cuda: ModuleType, name: str) -> None:
    # The gradient of the branch is rounded once.
    check_norm(cuda, name, 24, x="float32", branch="bfloat16", weight="float32", bound=5e-3)


@pytest.mark.parametrize("name", WITH_ADDITION)
@pytest.mark.parametrize(("branch", "weight"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_what_would_be_rounded_more_often_goes_to_the_reference(
    cuda: ModuleType, name: str, branch: str, weight: str
) -> None:
    # With a branch of more precision the sum is Paddle's, and its norm can be the kernel's.
    is_called = weight == "bfloat16"
    check_norm(cuda, name, 8, x="bfloat16", branch=branch, weight=weight,
               bound=BOUNDS["bfloat16"], is_called=is_called)  # fmt: skip


def test_rows_too_wide_for_shared_memory_go_to_the_reference(cuda: ModuleType) -> None:
    width = 20473
    given = [normal("float32", 1, width), *(normal("float32", n, width)[0] for n in (2, 3))]
    check(cuda, lambda x, w, b: ops.layer_norm(x, w, b, EPSILON), *given, bound=1e-5, called=set())


def test_frozen_weights_get_no_gradient(cuda: ModuleType) -> None:
    emulated.serve()
    x, weight = normal("float32", 2, 8), normal("float32", 8)
    x.stop_gradient = False
    ops.rms_norm(x, weight, EPSILON).sum().backward()
    assert x.grad is not None
    assert weight.grad is None
