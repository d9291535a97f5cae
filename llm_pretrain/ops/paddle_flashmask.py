"""Paddle's FlashMask (Wang et al., arXiv:2410.01359) over FlashAttention-3, for GPUs of compute
capability 9: bfloat16 and float16, heads of a multiple of 8 up to 128, the causal mask and
documents. With larger heads Paddle's kernel doesn't give the same bits twice."""

from __future__ import annotations

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor
from paddle.nn.functional.flash_attention import flashmask_attention

from llm_pretrain.machine import device
from llm_pretrain.ops.cuda.library import serves
from llm_pretrain.ops.mask import Mask
from llm_pretrain.ops.operator import LOW, to_compute_dtype
from llm_pretrain.ops.paddle_attention import fits

DTYPES = LOW
_LARGEST_HEAD = 128


def device_has_kernel() -> bool:
    """Whether the kernel runs on the device in use."""
    return device.compute_capability()[0] == 9


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
    is_taken = (
        not dropout
        and mask.slopes is None
        and mask.prefix_ends is None
        and (mask.document_starts is None or (np.diff(mask.document_starts) >= 0).all())
        and serves(q, k, v)
        and fits(q, _LARGEST_HEAD)
    )
    if not is_taken:
        return NotImplemented
    # Else Paddle takes FlashAttention-2 here, too. Its function of plain attention always does
    # where results are to be the same each time.
    paddle.set_flags({"FLAGS_flash_attn_version": 3})
    return flashmask_attention(q, k, v, device.to_device(_first_blind(mask, q)), causal=True)


flash_attention = attention


def _first_blind(mask: Mask, q_BSND: Tensor) -> NDArray[np.int32]:
    """For each key the first query behind it that doesn't see it, [B, 1, S, 1]."""
    B, S, _, _ = q_BSND.shape
    if mask.document_starts is None:
        return np.full((B, 1, S, 1), S, np.int32)
    firsts = [np.searchsorted(starts, np.arange(S), "right") for starts in mask.document_starts]
    return np.array(firsts, np.int32).reshape(B, 1, S, 1)
