"""The sums of tensors' bits (`machine.bit_sum`), on the host or on an accelerator."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor

from llm_pretrain.machine import device
from llm_pretrain.machine.bit_sum import STRIDE, signed, sum_on_host
from llm_pretrain.ops import internals

_IN_MEMORY = 1 << 22
"""Elements that a device takes at a time: it has 32 MB of products of them."""
_NUMBERS = {4: "int32", 2: "int16"}
"""By the bytes of an element."""


def bit_sums(tensors: Sequence[Tensor]) -> Tensor:
    """The sums of flat tensors of float32 or 16-bit types, int64 [number of tensors]."""
    if device.kind() == "cpu":
        sums = [sum_on_host(bits_of(tensor)) for tensor in tensors]
        return paddle.to_tensor(np.array(sums, np.int64))
    return sums_on_device(tensors)


@paddle.no_grad()
def sums_on_device(tensors: Sequence[Tensor]) -> Tensor:
    """`bit_sums` by Paddle's operators, which every device has."""
    longest = max((tensor.size for tensor in tensors), default=0)
    # Sent, since Paddle takes constants for numbers of fewer bits.
    constants = paddle.to_tensor(np.array([signed(STRIDE), signed(STRIDE * _IN_MEMORY)]))
    stride, ahead = internals.view(constants, 0, 1), internals.view(constants, 1, 2)
    first = paddle.arange(min(longest, _IN_MEMORY), dtype="int64") * stride + 1
    sums = []
    for tensor in tensors:
        multipliers = first
        total = paddle.zeros([1], "int64")
        for begin in range(0, tensor.size, _IN_MEMORY):
            end = min(begin + _IN_MEMORY, tensor.size)
            part = internals.view(tensor.detach(), begin, end)
            numbers = part.view(_NUMBERS[part.element_size()]).astype("int64")
            if begin:
                multipliers = multipliers + ahead
            total += (numbers * internals.view(multipliers, 0, end - begin)).sum()
        sums.append(total)
    return paddle.concat(sums)


def bits_of(tensor: Tensor) -> NDArray[np.signedinteger]:
    """The bits of each element of a tensor in the host's memory, in that memory."""
    kind = np.dtype(_NUMBERS[tensor.element_size()])
    memory = (ctypes.c_char * (tensor.size * kind.itemsize)).from_address(tensor.data_ptr())
    return np.frombuffer(memory, kind)
