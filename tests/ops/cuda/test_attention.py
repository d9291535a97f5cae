"""Attention by the CUDA kernels."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import paddle
import pytest
from paddle import Tensor

from llm_pretrain import ops
from llm_pretrain.ops import random_bits
from llm_pretrain.ops.mask import Mask
from llm_pretrain.ops.operator import set_compute_dtype
from tests.ops.comparison import normal
from tests.ops.cuda import emulated
from tests.ops.cuda.comparison import BOUNDS, check

CALLED = {"flash_attention", "flash_attention_backward"}
ROWS = np.stack([np.arange(21), np.arange(21)])
MASKS = {
    "causal": Mask(),
    "slopes": Mask(slopes=np.array([0.5, 0.125], np.float32)),
    "prefix": Mask(prefix_ends=np.array([[6] * 21, [11] * 21])),
    "documents": Mask(document_starts=ROWS // 8 * 8, prefix_ends=ROWS // 8 * 8 + 3),
}
BOTH = pytest.mark.parametrize("operator", [ops.attention, ops.flash_attention])


def heads(dtype: str, size: int) -> list[Tensor]:
    """Of queries, and of fewer keys and values."""
    return [normal(dtype, 2, 21, count, size) for count in (2, 1, 1)]


@pytest.mark.parametrize("mask", MASKS)
def test_masks(cuda: ModuleType, mask: str) -> None:
    check(cuda, lambda *qkv: ops.flash_attention(*qkv, MASKS[mask]), *heads("bfloat16", 64),
          bound=BOUNDS["bfloat16"], called=CALLED)  # fmt: skip


@pytest.mark.parametrize("size", [64, 80, 96, 128])
def test_head_sizes(cuda: ModuleType, size: int) -> None:
    check(cuda, lambda *qkv: ops.attention(*qkv, Mask()), *heads("float16", size),
          bound=BOUNDS["float16"], called=CALLED)  # fmt: skip


@BOTH
def test_float32_operands_are_rounded_to_the_compute_dtype(
    cuda: ModuleType, operator: Callable
) -> None:
    set_compute_dtype("bfloat16")
    check(cuda, lambda *qkv: operator(*qkv, Mask()), *heads("float32", 64),
          bound=BOUNDS["bfloat16"], called=CALLED)  # fmt: skip


@BOTH
@pytest.mark.parametrize(
    ("dtype", "size", "mask"),
    [
        ("float32", 64, Mask()),
        ("bfloat16", 16, Mask()),
        ("bfloat16", 64, Mask(prefix_ends=np.array([[9] * 10 + [5] * 11] * 2))),
    ],
    ids=["dtype", "head size", "falling prefix"],
)
def test_what_the_kernels_dont_take_goes_to_the_reference(
    cuda: ModuleType, operator: Callable, dtype: str, size: int, mask: Mask
) -> None:
    check(cuda, lambda *qkv: operator(*qkv, mask), *heads(dtype, size), bound=BOUNDS[dtype],
          called=set())  # fmt: skip


def test_dropout_goes_to_the_reference(cuda: ModuleType) -> None:
    emulated.serve()
    numbers_BNS = random_bits.numbers_of_heads(paddle.arange(42).reshape([2, 21]), np.arange(2))
    q, k, v = heads("bfloat16", 64)
    ops.flash_attention(q, k, v, Mask(), dropout=0.5, numbers_BNS=numbers_BNS)
    assert not cuda.calls


def test_operands_that_begin_anywhere_in_memory(cuda: ModuleType) -> None:
    """Parts of one tensor, contiguous and with gaps, of which none is aligned."""

    def attend(flat: Tensor) -> Tensor:
        q, k = (flat[i : i + 21 * 64].reshape([1, 21, 1, 64]) for i in (1, 3))
        v = flat[5 : 5 + 42 * 64].reshape([1, 21, 2, 64])[:, :, 1:]
        return ops.flash_attention(q, k, v, Mask())

    check(cuda, attend, normal("bfloat16", 3000), bound=BOUNDS["bfloat16"], called=CALLED)


def test_frozen_keys_get_no_gradient(cuda: ModuleType) -> None:
    emulated.serve()
    q, k, v = heads("bfloat16", 64)
    q.stop_gradient = v.stop_gradient = False
    ops.attention(q, k, v, Mask()).astype("float32").sum().backward()
    assert k.grad is None
    assert v.grad is not None
