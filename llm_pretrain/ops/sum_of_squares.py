"""What the norm of a gradient is made of."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor

from llm_pretrain.ops import dispatch, storage
from llm_pretrain.ops.native.library import call

_CHUNK = 1 << 22
"""Elements summed at a time, which bounds the memory of their squares."""


def sum_of_squares(x: Tensor) -> Tensor:
    """sum(x²) of a flat tensor [size], float32 [1]."""
    if dispatch.is_native("sum_of_squares", x):
        found = np.empty(1)
        call("sum_of_squares", x.size, x, x.dtype, found)
        return paddle.to_tensor(found, dtype="float32")
    total = paddle.zeros([1], "float32")
    for begin in range(0, x.size, _CHUNK):
        chunk = storage.view(x, begin, min(begin + _CHUNK, x.size)).astype("float32")
        # paddle.dot adds up in one run on CPU: 0.4 % off at this length.
        total += chunk.square().sum()
    return total
