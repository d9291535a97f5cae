"""Where activations enter and leave what the tensor-parallel group computes in shares.

Without sequence parallelism every rank holds all hidden states: entering copies them (their
gradient is summed), leaving sums the ranks' shares. With it (Korthikanti et al., arXiv:2205.05198)
each rank holds a part of the positions outside: entering gathers them, leaving sums the shares and
scatters the positions; the gradients take the opposite way.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.precision import in_float32_on_cpu
from llm_pretrain.parallel import collectives, topology


class _Copy(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return collectives.all_reduce(gradient.clone(), topology.current().tensor_group)


class _Sum(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return collectives.all_reduce(x.clone(), topology.current().tensor_group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Gather(PyLayer):
    @staticmethod
    def forward(ctx: Any, x_BSH: Tensor) -> Tensor:
        return _gather_positions(x_BSH)

    @staticmethod
    def backward(ctx: Any, gradient_BSH: Tensor) -> Tensor:
        return _sum_and_scatter_positions(gradient_BSH)


class _SumAndScatter(PyLayer):
    @staticmethod
    def forward(ctx: Any, x_BSH: Tensor) -> Tensor:
        return _sum_and_scatter_positions(x_BSH)

    @staticmethod
    def backward(ctx: Any, gradient_BSH: Tensor) -> Tensor:
        return _gather_positions(gradient_BSH)


def enter(x_BSH: Tensor) -> Tensor:
    """Hidden states as the input of column-parallel layers: all positions, on every rank."""
    layout = topology.current()
    if layout.degrees.tensor == 1:
        return x_BSH
    return _Gather.apply(x_BSH) if layout.sequence_parallel else _Copy.apply(x_BSH)


def leave(x_BSH: Tensor) -> Tensor:
    """The sum of the ranks' shares: all positions, or this rank's part of them."""
    layout = topology.current()
    if layout.degrees.tensor == 1:
        return x_BSH
    return _SumAndScatter.apply(x_BSH) if layout.sequence_parallel else _Sum.apply(x_BSH)


# Groups exchange parts along the first axis, so positions go there and back.
def _gather_positions(x_BSH: Tensor) -> Tensor:
    B, S, H = x_BSH.shape
    group = topology.current().tensor_group
    gathered = collectives.all_gather(x_BSH.contiguous(), group)
    whole_TBSH = gathered.reshape([group.nranks, B, S, H])
    return _swap(whole_TBSH).reshape([B, group.nranks * S, H])


def _swap(x: Tensor) -> Tensor:
    """The first two axes exchanged. Paddle's einsum does it with a fast kernel."""
    return in_float32_on_cpu(lambda x: paddle.einsum("abch->bach", x), x)


def _sum_and_scatter_positions(x_BSH: Tensor) -> Tensor:
    B, S, H = x_BSH.shape
    group = topology.current().tensor_group
    parts_BTSH = x_BSH.reshape([B, group.nranks, S // group.nranks, H])
    whole = _swap(parts_BTSH).reshape([-1, H])
    part = paddle.empty([B * S // group.nranks, H], x_BSH.dtype)
    collectives.reduce_scatter(part, whole, group)
    return part.reshape([B, S // group.nranks, H])
