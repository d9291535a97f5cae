"""Positions against heads, between the ranks of the sep axis (DeepSpeed-Ulysses, arXiv:2309.14509).

Outside attention every rank holds some positions of all heads; inside it, all positions of some.
Shapes: B batch, S positions of the whole sample, N heads of this tensor-parallel rank, n ranks.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.precision import in_float32_on_cpu
from llm_pretrain.parallel import collectives, topology


class _ToHeads(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _to_heads(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _to_positions(gradient)


class _ToPositions(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _to_positions(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _to_heads(gradient)


def to_heads(x_BSND: Tensor) -> Tensor:
    """[B, S/n, N, D] -> [B, S, N/n, D]."""
    return _ToHeads.apply(x_BSND)


def to_positions(x_BSND: Tensor) -> Tensor:
    """[B, S, N/n, D] -> [B, S/n, N, D]."""
    return _ToPositions.apply(x_BSND)


def _to_heads(x_BSND: Tensor) -> Tensor:
    B, S, _, D = x_BSND.shape
    group = topology.current().sequence_group
    by_heads = _permuted("bsrnd->rbsnd", x_BSND.reshape([B, S, group.nranks, -1, D]))
    by_positions = collectives.all_to_all(by_heads, group)
    return _permuted("rbsnd->brsnd", by_positions).reshape([B, group.nranks * S, -1, D])


def _to_positions(x_BSND: Tensor) -> Tensor:
    B, _, N, D = x_BSND.shape
    group = topology.current().sequence_group
    by_positions = _permuted("brsnd->rbsnd", x_BSND.reshape([B, group.nranks, -1, N, D]))
    by_heads = collectives.all_to_all(by_positions, group)
    return _permuted("rbsnd->bsrnd", by_heads).reshape([B, -1, group.nranks * N, D])


def _permuted(equation: str, x: Tensor) -> Tensor:
    # Einsum copies fast where transpose makes a strided view; on CPU it has no 16-bit kernels.
    return in_float32_on_cpu(lambda x: paddle.einsum(equation, x), x)
