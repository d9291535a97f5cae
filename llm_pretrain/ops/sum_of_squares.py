"""What the norm of a gradient is made of."""

from __future__ import annotations

import paddle
from paddle import Tensor

from llm_pretrain.ops import storage
from llm_pretrain.ops.native import adamw as native
from llm_pretrain.ops.operator import Draw, Operator

SUM_OF_SQUARES = Operator("sum_of_squares", cpp=native, is_float32=True)

_CHUNK = 1 << 22
"""Elements summed at a time, which bounds the memory of their squares."""


@SUM_OF_SQUARES.reference
def sum_of_squares(x: Tensor) -> Tensor:
    """sum(x²) of a flat tensor [size], float32 [1]."""
    total = paddle.zeros([1], "float32")
    for begin in range(0, x.size, _CHUNK):
        chunk = storage.view(x, begin, min(begin + _CHUNK, x.size)).astype("float32")
        # paddle.dot adds up in one run on CPU: 0.4 % off at this length.
        total += chunk.square().sum()
    return total


@SUM_OF_SQUARES.self_test
def _example(draw: Draw) -> list[Tensor]:
    return [sum_of_squares(draw.in_float32(50).detach())]
