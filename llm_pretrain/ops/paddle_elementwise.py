"""Paddle's fused kernels for GPUs: RMSNorm, rotary embedding and AdamW. SwiGLU and layer norm need
none here, as the references are such kernels already."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor
from paddle.incubate.nn.functional import fused_rotary_position_embedding
from paddle.nn import functional as F

from llm_pretrain.machine import device
from llm_pretrain.ops import internals
from llm_pretrain.ops.cuda.library import holds, serves

DTYPES = ("float32", "bfloat16", "float16")


def device_has_kernel() -> bool:
    """Whether the kernels run on the device in use."""
    return device.kind() == "gpu"


def norm(x: Tensor, branch: Tensor | None, epsilon: float, *parameters: Tensor) -> Any:
    """`ops.norm.norm`, of RMSNorm."""
    others = parameters if branch is None else (branch, *parameters)
    if len(parameters) != 1 or not serves(x, *others) or not holds(x.dtype, *others):
        return NotImplemented
    total = x if branch is None else x + branch.astype(x.dtype)
    y, _ = F.rms_norm(total, [x.shape[-1]], parameters[0].astype(x.dtype), epsilon)
    return y if branch is None else (total, y)


def rotary(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, spans: int = 1
) -> tuple[Tensor, Tensor]:
    """`ops.rotary`, of whole heads by one table for all samples."""
    size = q.shape[-1]
    is_taken = cos.shape[-1] == size and cos.ndim == 2 and spans in (1, size // 2)
    if not is_taken or not serves(q, k):
        return NotImplemented
    # The kernel has one dtype, and a table of 16 bits would turn by other angles.
    turned = fused_rotary_position_embedding(
        q.astype("float32"),
        k.astype("float32"),
        sin=sin.unsqueeze([0, 2]),
        cos=cos.unsqueeze([0, 2]),
        use_neox_rotary_style=spans > 1,  # Paddle's name for neighbours
    )
    return turned[0].astype(q.dtype), turned[1].astype(k.dtype)


def adamw_(
    weights: Tensor,
    moment1: Tensor,
    moment2: Tensor,
    gradient: Tensor,
    *,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    gradient_factor: float,
    step: int,
) -> None:
    """`ops.adamw_`."""
    if weights.dtype != paddle.float32 or not serves(weights, gradient):
        return NotImplemented
    internals.adamw_(
        weights,
        gradient.astype("float32") * gradient_factor,
        (moment1, moment2),
        learning_rate=learning_rate,
        betas=(beta1, beta2),
        powers=(beta1**step, beta2**step),
        epsilon=epsilon,
        weight_decay=weight_decay,
    )
    return None
