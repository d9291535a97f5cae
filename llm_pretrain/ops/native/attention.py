"""Flash attention in C++: for every mask, without dropout of the probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.gradients import for_trained, note_trained
from llm_pretrain.ops.mask import Mask
from llm_pretrain.ops.native import library
from llm_pretrain.ops.native.library import (
    call,
    cast,
    declare,
    empty,
    empty_like,
    expect,
    packed,
    serves,
)
from llm_pretrain.ops.operator import operand_dtype

declare(flash_attention="nnnnnpppippp", flash_attention_backward="nnnnnpppippppppp")


def attention(
    q_BSND: Tensor,
    k_BSKD: Tensor,
    v_BSKD: Tensor,
    mask: Mask,
    *,
    dropout: float = 0.0,
    numbers_BNS: Tensor | None = None,
) -> Tensor:
    """`ops.attention`."""
    dtype = operand_dtype(q_BSND)
    if dropout or dtype == paddle.float16 or not serves(q_BSND, k_BSKD, v_BSKD):
        return NotImplemented
    return _FlashAttention.apply(q_BSND, k_BSKD, v_BSKD, mask, dtype)


flash_attention = attention


class _FlashAttention(PyLayer):
    """Operands in `dtype`."""

    @staticmethod
    def forward(
        ctx: Any,
        q_BSND: Tensor,
        k_BSKD: Tensor,
        v_BSKD: Tensor,
        mask: Mask,
        dtype: paddle.dtype,
    ) -> Tensor:
        note_trained(ctx, q_BSND, k_BSKD, v_BSKD)
        ctx.dtypes = [x.dtype for x in (q_BSND, k_BSKD, v_BSKD)]
        q, k, v = (cast(x, dtype) for x in (q_BSND, k_BSKD, v_BSKD))
        B, S, N, D = q.shape
        y = empty_like(q)
        log_sums = empty([B, N, S], paddle.float32)
        expect("k", k, [B, S, k.shape[2], D])
        expect("v", v, k.shape)
        rules = _Rules(mask, B, S, N)
        call("flash_attention", B, S, N, k.shape[2], D, q, k, v, dtype, rules.pointers, y, log_sums)
        ctx.save_for_backward(q, k, v, y, log_sums)
        ctx.rules = rules
        return y

    @staticmethod
    def backward(ctx: Any, dy_BSND: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, y, log_sums = ctx.saved_tensor()
        B, S, N, D = q.shape
        dq, dk, dv = (empty_like(x) for x in (q, k, v))
        call("flash_attention_backward", B, S, N, k.shape[2], D, q, k, v, q.dtype,
             ctx.rules.pointers, y, log_sums, packed(dy_BSND), dq, dk, dv)  # fmt: skip
        gradients = (cast(x, t) for x, t in zip((dq, dk, dv), ctx.dtypes, strict=True))
        return for_trained(ctx, *gradients)


class _Rules:
    """A mask's arrays, kept alive beside the pointers to them."""

    def __init__(self, mask: Mask, B: int, S: int, N: int) -> None:
        self.arrays = (
            _contiguous(mask.slopes, np.float32),
            _contiguous(mask.prefix_ends, np.int64),
            _contiguous(mask.document_starts, np.int64),
        )
        for name, array, shape in zip(
            ("slopes", "prefix_ends", "document_starts"),
            self.arrays,
            ([N], [B, S], [B, S]),
            strict=True,
        ):
            expect(name, array, shape)
        addresses = (None if array is None else array.ctypes.data for array in self.arrays)
        self.pointers = library.Mask(*addresses)


def _contiguous(array: NDArray[Any] | None, dtype: type) -> NDArray[Any] | None:
    return None if array is None else np.ascontiguousarray(array, dtype)
