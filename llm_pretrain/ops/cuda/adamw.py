"""AdamW in CUDA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import paddle
from paddle import Tensor

from llm_pretrain.ops.cuda.library import call

if TYPE_CHECKING:
    from llm_pretrain.ops.adamw import Rates


def takes(weights: Tensor, moment1: Tensor, moment2: Tensor) -> bool:
    """Whether the kernel takes these: what it updates in place has no gaps."""
    updated = weights, moment1, moment2
    return all(x.dtype == paddle.float32 and x.is_contiguous() for x in updated)


def adamw_(
    weights: Tensor, moment1: Tensor, moment2: Tensor, gradient: Tensor, rates: Rates
) -> None:
    """`ops.adamw_`, of operands that the kernel takes."""
    # Detached: extensions may not write to what gets gradients, even where none are recorded.
    call("adamw", [weights.detach()], [moment1], [moment2], [gradient], [rates.weight_decay],
         rates.gradient_factor, rates.learning_rate, rates.beta1, rates.beta2, rates.epsilon,
         1 - rates.beta1_power, 1 - rates.beta2_power)  # fmt: skip
