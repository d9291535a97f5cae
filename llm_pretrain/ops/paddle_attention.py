"""Paddle's own kernel of flash attention (Dao, arXiv:2307.08691), on GPUs from compute capability 8
on: for bfloat16 and float16, heads of a multiple of 8 up to 192, and the plain causal mask. Larger
ones it takes on some devices alone."""

from __future__ import annotations

import paddle
from paddle import Tensor
from paddle.nn.functional.flash_attention import flash_attention as kernel

from llm_pretrain.ops import dispatch
from llm_pretrain.ops.mask import Mask


def device_has_kernel() -> bool:
    """Whether the kernel runs on the device in use."""
    is_gpu = paddle.get_device().startswith("gpu")
    return is_gpu and paddle.device.cuda.get_device_capability()[0] >= 8


def serves(q_BSND: Tensor, mask: Mask) -> bool:
    """Whether the kernel serves attention of such queries, without dropout."""
    return (
        dispatch.is_by_paddle("attention")
        and mask.is_plain
        and q_BSND.place.is_gpu_place()
        and q_BSND.dtype in (paddle.bfloat16, paddle.float16)
        and q_BSND.shape[-1] % 8 == 0
        and q_BSND.shape[-1] <= 192
    )


def attend(q_BSND: Tensor, k_BSKD: Tensor, v_BSKD: Tensor) -> Tensor:
    """`ops.attention` where the kernel serves."""
    return kernel(q_BSND, k_BSKD, v_BSKD, causal=True)[0]
