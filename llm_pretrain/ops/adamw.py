"""AdamW (Loshchilov and Hutter, arXiv:1711.05101) on flat tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import paddle
from paddle import Tensor

from llm_pretrain.ops import dispatch
from llm_pretrain.ops.cuda import adamw as cuda
from llm_pretrain.ops.native.library import call, expect


@dataclass(frozen=True)
class Rates:
    """What a step of AdamW depends on besides weights, moments and gradient.

    Attributes:
        gradient_factor: the gradient is multiplied by it first.
        beta1_power, beta2_power: beta to the power of this step's number, from 1.
    """

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    gradient_factor: float
    beta1_power: float
    beta2_power: float


def adamw_(
    weights: Tensor, moment1: Tensor, moment2: Tensor, gradient: Tensor, rates: Rates
) -> None:
    """Update float32 weights and moments in place.

    With g the scaled gradient, m and v its running means of first and second power:
    w ← w (1 - learning_rate · weight_decay) - learning_rate · m̂ / (sqrt(v̂) + epsilon).

    Args:
        weights, moment1, moment2: [size].
        gradient: [size], float32 or a 16-bit type.
    """
    if dispatch.is_native("adamw", weights, gradient):
        for name, x in (("weights", weights), ("moment1", moment1), ("moment2", moment2)):
            expect(name, x, gradient.shape, paddle.float32)
        call("adamw", weights.size, weights, moment1, moment2, gradient, gradient.dtype, None,
             rates.gradient_factor, rates.learning_rate, rates.beta1, rates.beta2, rates.epsilon,
             rates.weight_decay, 1 - rates.beta1_power, 1 - rates.beta2_power)  # fmt: skip
        return
    if dispatch.is_cuda("adamw", weights, gradient) and cuda.takes(weights, moment1, moment2):
        cuda.adamw_(weights, moment1, moment2, gradient, rates)
        return
    gradient = gradient.astype("float32") * rates.gradient_factor
    moment1.scale_(rates.beta1).add_(gradient * (1 - rates.beta1))
    moment2.scale_(rates.beta2).add_(gradient.square_().scale_(1 - rates.beta2))
    root = math.sqrt(1 - rates.beta2_power)
    step = rates.learning_rate * root / (1 - rates.beta1_power)
    weights.scale_(1 - rates.learning_rate * rates.weight_decay)
    weights.subtract_((moment1 / (moment2.sqrt() + rates.epsilon * root)).scale_(step))
