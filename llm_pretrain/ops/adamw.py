"""AdamW (Loshchilov and Hutter, arXiv:1711.05101) on flat tensors, and what the norm of a gradient
is made of."""

from __future__ import annotations

import math

import paddle
from paddle import Tensor

from llm_pretrain.ops import internals, paddle_elementwise
from llm_pretrain.ops.cuda import elementwise as cuda
from llm_pretrain.ops.native import elementwise as native
from llm_pretrain.ops.operator import Draw, Operator, Work
from llm_pretrain.ops.workload import Workload

ADAMW = Operator("adamw", cpp=native, cuda=cuda, paddle=paddle_elementwise, is_float32=True)


@ADAMW.reference
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
    """Update float32 weights and moments in place.

    With g the scaled gradient, m and v its running means of first and second power:
    w ← w (1 - learning_rate · weight_decay) - learning_rate · m̂ / (sqrt(v̂) + epsilon).

    Args:
        weights, moment1, moment2: [size].
        gradient: [size], float32 or a 16-bit type.
        gradient_factor: the gradient is multiplied by it first.
        step: this step's number, from 1.
    """
    gradient = gradient.astype("float32") * gradient_factor
    moment1.scale_(beta1).add_(gradient * (1 - beta1))
    moment2.scale_(beta2).add_(gradient.square_().scale_(1 - beta2))
    root = math.sqrt(1 - beta2**step)
    size = learning_rate * root / (1 - beta1**step)
    weights.scale_(1 - learning_rate * weight_decay)
    weights.subtract_((moment1 / (moment2.sqrt() + epsilon * root)).scale_(size))


@ADAMW.self_test
def _example(draw: Draw) -> list[Tensor]:
    weights, moment1, gradient = (draw.in_float32(50).detach() for _ in range(3))
    return _updated(weights, moment1, gradient.square(), gradient)


@ADAMW.work_of_a_run
def _work(draw: Draw, of: Workload) -> Work:
    weights, moment1, gradient = (draw.large("float32", of.parameters).detach() for _ in range(3))
    moment2 = gradient.square()
    return lambda: _updated(weights, moment1, moment2, gradient)


def _updated(weights: Tensor, moment1: Tensor, moment2: Tensor, gradient: Tensor) -> list[Tensor]:
    adamw_(
        *(weights, moment1, moment2, gradient),
        learning_rate=1e-2,
        beta1=0.9,
        beta2=0.95,
        epsilon=1e-8,
        weight_decay=0.1,
        gradient_factor=0.5,
        step=2,
    )
    return [weights, moment1, moment2]


SUM_OF_SQUARES = Operator("sum_of_squares", cpp=native, is_float32=True)

_SQUARES = 1 << 22
"""Elements summed at a time, which bounds the memory of their squares."""


@SUM_OF_SQUARES.reference
def sum_of_squares(x: Tensor) -> Tensor:
    """sum(x²) of a flat tensor [size], float32 [1]."""
    total = paddle.zeros([1], "float32")
    for begin in range(0, x.size, _SQUARES):
        part = internals.view(x, begin, min(begin + _SQUARES, x.size)).astype("float32")
        # paddle.dot adds up in one run on CPU: 0.4 % off at this length.
        total += part.square().sum()
    return total


@SUM_OF_SQUARES.self_test
def _squares_example(draw: Draw) -> list[Tensor]:
    return [sum_of_squares(draw.in_float32(50).detach())]
