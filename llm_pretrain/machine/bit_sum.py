"""The 64-bit sum of an array's bits, by which it is compared with what should be the same.

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

import numpy as np
from numpy.typing import NDArray

CONSTANT = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio, whose multiples are far apart."""
STRIDE = 2 * CONSTANT & (1 << 64) - 1
_IN_CACHE = 1 << 15
"""Elements that are taken at a time."""


def sum_on_host(numbers: NDArray[np.signedinteger]) -> int:
    """The sum of elements whose bits are `numbers`, a signed number of 64 bits."""
    multipliers = _multipliers(min(len(numbers), _IN_CACHE))
    ahead = np.array(signed(STRIDE * _IN_CACHE))
    wide = np.empty_like(multipliers)
    total = 0
    for begin in range(0, len(numbers), _IN_CACHE):
        part = numbers[begin : begin + _IN_CACHE]
        wide[: len(part)] = part
        total += int(np.dot(wide[: len(part)], multipliers[: len(part)]))
        multipliers += ahead
    return signed(total)


def _multipliers(count: int) -> NDArray[np.int64]:
    return (np.arange(count, dtype=np.uint64) * np.uint64(STRIDE) + np.uint64(1)).view(np.int64)


def signed(number: int) -> int:
    """The number of 64 bits, with a sign, that is congruent to this one."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)
