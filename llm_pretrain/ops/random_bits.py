"""Random numbers that are a function of where they are used, and of nothing else; and dropout.

A number belongs to a seed, a place in the model, a sample, a position and a column. Whatever rank
computes that element, at whatever time and in whatever order, draws the same number, so that
dropout is the same in every layout and needs no state to be recomputed or resumed.
"""

from __future__ import annotations

import hashlib
from typing import TypeVar

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor

from llm_pretrain.machine.device import to_device

_BITS = (1 << 32) - 1
# The mixing function "lowbias32" of Chris Wellons' hash prospector. The second factor is taken
# modulo 2^32 as a negative number, so that no product leaves the range of int64.
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - (1 << 32)

Integers = TypeVar("Integers", NDArray[np.int64], Tensor)


def _mixed(x: Integers) -> Integers:
    """A permutation of the integers below 2^32 of which every bit depends on every other."""
    # Paddle's & takes tensors alone.
    bits = paddle.full([], _BITS, "int64") if isinstance(x, Tensor) else np.int64(_BITS)
    x = x ^ (x >> 16)
    x = (x * _FIRST) & bits
    x = x ^ (x >> 15)
    x = (x * _SECOND) & bits
    return x ^ (x >> 16)


def numbers(
    seed: int, place: str, samples: NDArray[np.int64], positions: NDArray[np.int64]
) -> NDArray[np.int64]:
    """One number per sample and position, int64 [B, S], for `keep`.

    Args:
        place: name of the layer that draws.
        samples: [B] numbers of the samples in the run.
        positions: [S] positions in a sample.
    """
    digest = hashlib.sha256(f"{seed}/{place}".encode()).digest()
    first, second = np.frombuffer(digest[:8], dtype="<u4").astype(np.int64)
    by_sample = _mixed(first ^ (samples & _BITS)) ^ _mixed(second ^ (samples >> 32))
    return _mixed(by_sample[:, None] ^ _mixed(second ^ positions)[None, :])


def numbers_of_heads(numbers_BS: Tensor, heads: NDArray[np.int64]) -> Tensor:
    """One number per sample, head and position, [B, N, S]."""
    salt_N = to_device(_mixed(heads ^ 0x5BD1E995))
    return _mixed(numbers_BS.unsqueeze(1) ^ salt_N.reshape([1, -1, 1]))


def keep(numbers: Tensor, columns: NDArray[np.int64], dropout: float) -> Tensor:
    """Which of the elements [..., n] dropout leaves, bool: each with probability 1 - dropout.

    Args:
        numbers: int64 [...], from `numbers`.
        columns: [n] numbers of the columns: features, or positions of keys.
    """
    salt = to_device(_mixed(columns ^ 0x27D4EB2F))
    return _mixed(numbers.unsqueeze(-1) ^ salt) >= int(dropout * (1 << 32))


def dropout(x: Tensor, probability: float, numbers: Tensor) -> Tensor:
    """Leave out values with `probability` and divide the others by 1 - probability, in float32
    (Srivastava et al., JMLR 15, 2014).

    Args:
        x: [..., H].
        numbers: int64 [...], from `numbers`; they choose what is left out.

    Returns:
        The shape and dtype of `x`.
    """
    kept = keep(numbers, np.arange(x.shape[-1]), probability).astype("float32")
    return (x.astype("float32") * kept.scale_(1 / (1 - probability))).astype(x.dtype)
