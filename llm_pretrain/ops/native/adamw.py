"""AdamW and the sum of squares in C++."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor

from llm_pretrain.ops.native.library import call, declare, expect, serves

declare(adamw="nppppip" + 8 * "f", sum_of_squares="npip")


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
    if not serves(weights, gradient):
        return NotImplemented
    for name, x in (("weights", weights), ("moment1", moment1), ("moment2", moment2)):
        expect(name, x, gradient.shape, paddle.float32)
    call("adamw", weights.size, weights, moment1, moment2, gradient, gradient.dtype, None,
         gradient_factor, learning_rate, beta1, beta2, epsilon, weight_decay, 1 - beta1**step,
         1 - beta2**step)  # fmt: skip
    return None


def sum_of_squares(x: Tensor) -> Tensor:
    """`ops.sum_of_squares`."""
    if not serves(x):
        return NotImplemented
    found = np.empty(1)
    call("sum_of_squares", x.size, x, x.dtype, found)
    return paddle.to_tensor(found, dtype="float32")
