"""The 64-bit sum of a tensor's bits, by which ranks that hold the same values compare them.

Element i, its bits taken for a signed number x of 32 or 16 bits, adds x (2 C i + 1) modulo 2^64,
with an odd constant C. What two sums of tensors of fewer than 2^29 elements tell:

- Every change of one element is found, whichever of its bits flip: x changes by d with
  0 < |d| < 2^32, and 2^64 doesn't divide the product of d and an odd number.
- Every two flips are found. Of one element: above. Of elements i ≠ j at bits b < c the sum changes
  by ±2^b (2 C i + 1) ± 2^c (2 C j + 1), which is 2^b times an odd number. At the same bit it
  changes by ±2^(b + 1) C (i - j) if one bit rises and the other falls, where i - j has fewer than
  29 factors 2; and by ±2^(b + 1) (C (i + j) + 1) if both rise or both fall, which is no multiple of
  2^64 as long as i + j < 2^30 (`tests/ops/test_bit_sum.py` has the arithmetic).
- Every exchange of two unequal elements is found: (x - y) 2 C (i - j) has less than 64 factors 2.
- Flips of more elements cancel by chance: once in 2^64 times.

Integers add up exactly in any order: the sum is the same on every kind of device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor

from llm_pretrain.machine import device
from llm_pretrain.ops import internals

CONSTANT = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio, whose multiples are far apart."""
_STRIDE = 2 * CONSTANT & (1 << 64) - 1
_IN_CACHE = 1 << 15
"""Elements that a CPU takes at a time."""
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


def sum_on_host(numbers: NDArray[np.signedinteger]) -> int:
    """The sum of elements whose bits are `numbers`, a signed number of 64 bits."""
    multipliers = _multipliers(min(len(numbers), _IN_CACHE))
    ahead = np.array(_signed(_STRIDE * _IN_CACHE))
    wide = np.empty_like(multipliers)
    total = 0
    for begin in range(0, len(numbers), _IN_CACHE):
        part = numbers[begin : begin + _IN_CACHE]
        wide[: len(part)] = part
        total += int(np.dot(wide[: len(part)], multipliers[: len(part)]))
        multipliers += ahead
    return _signed(total)


@paddle.no_grad()
def sums_on_device(tensors: Sequence[Tensor]) -> Tensor:
    """`bit_sums` by Paddle's operators, which every device has."""
    longest = max((tensor.size for tensor in tensors), default=0)
    # Sent, since Paddle takes constants for numbers of fewer bits.
    constants = paddle.to_tensor(np.array([_signed(_STRIDE), _signed(_STRIDE * _IN_MEMORY)]))
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


def _multipliers(count: int) -> NDArray[np.int64]:
    return (np.arange(count, dtype=np.uint64) * np.uint64(_STRIDE) + np.uint64(1)).view(np.int64)


def _signed(number: int) -> int:
    """The number of 64 bits, with a sign, that is congruent to this one."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def bits_of(tensor: Tensor) -> NDArray[np.signedinteger]:
    """The bits of each element of a tensor in the host's memory, in that memory."""
    kind = np.dtype(_NUMBERS[tensor.element_size()])
    memory = (ctypes.c_char * (tensor.size * kind.itemsize)).from_address(tensor.data_ptr())
    return np.frombuffer(memory, kind)
