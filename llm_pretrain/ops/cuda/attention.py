"""Flash attention in CUDA: for every mask, without dropout of the probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.machine.device import to_device
from llm_pretrain.ops.cuda.library import call, serves
from llm_pretrain.ops.gradients import for_trained, note_trained
from llm_pretrain.ops.mask import Mask
from llm_pretrain.ops.operator import LOW, to_compute_dtype

HEAD_SIZES = (64, 80, 96, 128)
DTYPES = LOW
_ALIGNMENT = 16
"""Bytes, of the operands' memory."""


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
    q, k, v = (to_compute_dtype(x) for x in (q_BSND, k_BSKD, v_BSKD))
    if dropout or not serves(q, k, v) or not _take(q, mask):
        return NotImplemented
    return _FlashAttention.apply(q, k, v, mask)


flash_attention = attention


def _take(q_BSND: Tensor, mask: Mask) -> bool:
    """Whether the kernels take queries in the compute dtype, under this mask."""
    rules = (rule for rule in (mask.prefix_ends, mask.document_starts) if rule is not None)
    return (
        q_BSND.dtype in DTYPES.values()
        and q_BSND.shape[-1] in HEAD_SIZES
        # The kernels skip what a whole tile hides, going by its first and last row.
        and all((np.diff(rule) >= 0).all() for rule in rules)
    )


class _FlashAttention(PyLayer):
    @staticmethod
    def forward(ctx: Any, q_BSND: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, mask: Mask) -> Tensor:
        note_trained(ctx, q_BSND, k_BSKD, v_BSKD)
        q, k, v = (_aligned(x) for x in (q_BSND, k_BSKD, v_BSKD))
        rules = (
            _tensor(mask.slopes, np.float32),
            _tensor(mask.prefix_ends, np.int64),
            _tensor(mask.document_starts, np.int64),
        )
        y, log_sums = call("flash_attention", q, k, v, *rules)
        ctx.save_for_backward(q, k, v, y, log_sums)
        ctx.rules = rules
        return y

    @staticmethod
    def backward(ctx: Any, dy_BSND: Tensor) -> tuple[Tensor | None, ...]:
        operands = *ctx.saved_tensor(), _aligned(dy_BSND)
        return for_trained(ctx, *call("flash_attention_backward", *operands, *ctx.rules))


def _aligned(x: Tensor) -> Tensor:
    """`x`, or a copy: a part of a larger tensor may begin anywhere."""
    x = x.contiguous()
    return x.clone() if x.data_ptr() % _ALIGNMENT else x


def _tensor(array: NDArray[Any] | None, dtype: type) -> Tensor | None:
    return None if array is None else to_device(array.astype(dtype))
