"""AdamW in CUDA."""

from __future__ import annotations

import paddle
from paddle import Tensor

from llm_pretrain.ops.cuda.library import call, serves


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
    """`ops.adamw_`; what the kernel updates in place has no gaps."""
    updated = weights, moment1, moment2
    has_gaps = any(x.dtype != paddle.float32 or not x.is_contiguous() for x in updated)
    if has_gaps or not serves(weights, gradient):
        return NotImplemented
    # Detached: extensions may not write to what gets gradients, even where none are recorded.
    call("adamw", [weights.detach()], [moment1], [moment2], [gradient], [weight_decay],
         gradient_factor, learning_rate, beta1, beta2, epsilon, 1 - beta1**step,
         1 - beta2**step)  # fmt: skip
    return None
