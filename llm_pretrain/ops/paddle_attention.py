"""Paddle's own kernel of flash attention (Dao, arXiv:2307.08691), on GPUs from compute capability 8
on: for bfloat16 and float16, heads of a multiple of 8 up to 192, and the plain causal mask. Larger
ones it takes on some devices alone."""

from __future__ import annotations

from paddle import Tensor
from paddle.nn.functional.flash_attention import flash_attention as kernel

from llm_pretrain.machine import device
from llm_pretrain.ops.mask import Mask
from llm_pretrain.ops.operator import LOW, to_compute_dtype

DTYPES = LOW
_LARGEST_HEAD = 192


def device_has_kernel() -> bool:
    """Whether the kernel runs on the device in use."""
    return device.compute_capability() >= (8, 0)


def fits(q_BSND: Tensor, largest_head: int) -> bool:
    """Whether queries have a dtype and a head size of Paddle's kernels."""
    size = q_BSND.shape[-1]
    return q_BSND.dtype in DTYPES.values() and size % 8 == 0 and size <= largest_head


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
    is_taken = not dropout and mask.is_plain and q.place.is_gpu_place() and fits(q, _LARGEST_HEAD)
    return kernel(q, k, v, causal=True)[0] if is_taken else NotImplemented


flash_attention = attention
