"""Layers whose weights the tensor-parallel group shares (Shoeybi et al., arXiv:1909.08053).

At degree 1 they are plain layers. The local share of an axis over the group of t ranks is written
out / t. Without sequence parallelism every rank holds all hidden states: entering the region that
is computed in shares copies them (their gradient is summed), leaving it sums the ranks' shares.
With it (Korthikanti et al., arXiv:2205.05198) hidden states outside have S / t positions: entering
gathers them, leaving sums the shares and scatters the positions; gradients go the opposite way.
The gradient of what enters is summed while the gradients of column-parallel weights are computed.
"""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from llm_pretrain import ops
from llm_pretrain.ops.gradients import SharedInput
from llm_pretrain.ops.operator import in_float32_on_cpu
from llm_pretrain.parallel.comm import collectives, topology
from llm_pretrain.parallel.comm.collectives import Arriving
from llm_pretrain.parallel.sharding.pieces import Normal, Piece


def tensor_parallel_share(size: int) -> int:
    """This rank's share of an axis of `size`, padding included."""
    return -(-size // topology.current().degrees.tensor)


def parameter_of(layer: nn.Layer, shape: list[int], pieces: list[Piece]) -> Tensor:
    """A parameter of `layer` that holds `pieces`, with no values yet."""
    parameter = layer.create_parameter(shape, default_initializer=nn.initializer.Constant(0.0))
    parameter.pieces = tuple(pieces)
    return parameter


class ColumnParallelLinear(nn.Layer):
    """Linear maps of one input, split by output features.

    Args:
        in_features: size of the input's last axis, whole on every rank.
        outputs: name and whole size of each output; each name begins its tensors' names.
        fused: one weight (and one product) for the outputs instead of one each.
        whole: outputs whose weights every rank holds whole, with the columns [begin, end) that
            this rank computes. They are not fused with others.
        std: standard deviation of the initial weights.
    """

    def __init__(
        self,
        in_features: int,
        outputs: dict[str, int],
        *,
        bias: bool = False,
        fused: bool = False,
        whole: dict[str, tuple[int, int]] | None = None,
        std: float,
    ) -> None:
        super().__init__()
        self.whole = whole or {}
        split = [name for name in outputs if name not in self.whole]
        self.groups = [split] if fused else [[name] for name in split]
        self.groups += [[name] for name in self.whole]
        self.order = [[name for group in self.groups for name in group].index(n) for n in outputs]
        self.shares = {name: tensor_parallel_share(size) for name, size in outputs.items()}
        self.weights: list[Tensor] = []
        self.biases: list[Tensor | None] = []
        for group in self.groups:
            is_whole = group[0] in self.whole
            weight_pieces, bias_pieces, width = [], [], 0
            for name in group:
                size = outputs[name]
                weight_pieces.append(
                    Piece(
                        f"{name}.weight",
                        (in_features, size),
                        None if is_whole else 1,
                        width,
                        Normal(std),
                    )
                )
                bias_pieces.append(Piece(f"{name}.bias", (size,), None if is_whole else 0, width))
                width += size if is_whole else self.shares[name]
            label = "_".join(group)
            self.weights.append(parameter_of(self, [in_features, width], weight_pieces))
            self.add_parameter(f"{label}_weight", self.weights[-1])
            self.biases.append(parameter_of(self, [width], bias_pieces) if bias else None)
            if bias:
                self.add_parameter(f"{label}_bias", self.biases[-1])
            for parameter in (self.weights[-1], self.biases[-1]):
                if parameter is not None:
                    parameter.is_partial = is_whole

    def forward(self, x: Tensor) -> list[Tensor]:
        """x [..., in] -> one tensor [..., size / t] per output, in order."""
        weights, biases = list(self.weights), list(self.biases)
        for number, group in enumerate(self.groups):
            if group[0] in self.whole:
                columns = slice(*self.whole[group[0]])
                weight, bias = weights[number], biases[number]
                weights[number] = weight[:, columns]
                biases[number] = None if bias is None else bias[columns]
        results: list[Tensor] = []
        ys = ops.linears(x, weights, biases, shared=shared_input())
        for group, y in zip(self.groups, ys, strict=True):
            shares = [self.shares[name] for name in group]
            results += [y] if len(group) == 1 else paddle.split(y, shares, axis=-1)
        return [results[index] for index in self.order]


class RowParallelLinear(nn.Layer):
    """A linear map split by input features; its outputs are summed over the group.

    Args:
        in_features, out_features: whole sizes; the input arrives as [..., in / t].
        name: begins its tensors' names.
        std: standard deviation of the initial weights.
    """

    def __init__(
        self, in_features: int, out_features: int, name: str, *, bias: bool = False, std: float
    ) -> None:
        super().__init__()
        self.weight = parameter_of(
            self,
            [tensor_parallel_share(in_features), out_features],
            [Piece(f"{name}.weight", (in_features, out_features), 0, 0, Normal(std))],
        )
        self.bias = None
        if bias:
            self.bias = parameter_of(
                self, [out_features], [Piece(f"{name}.bias", (out_features,), None)]
            )

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in / t] -> [..., out]."""
        if topology.current().degrees.tensor == 1:
            return ops.linear(x, self.weight, self.bias)
        y = leave_region(ops.linear(x, self.weight))
        return y if self.bias is None else in_float32_on_cpu(paddle.add, y, self.bias)


def shared_input() -> SharedInput | None:
    """How column-parallel layers come by their input; None for a rank that has all of it alone."""
    here = topology.current()
    if here.degrees.tensor == 1:
        return None
    return _SplitPositions() if here.sequence_parallel else _WholeOnEveryRank()


def enter_region(x_BSH: Tensor) -> Tensor:
    """Hidden states as the input of column-parallel layers: all positions, on every rank.

    For what is no `ops.linear`, which enters by `shared_input`.
    """
    here = topology.current()
    if here.degrees.tensor == 1:
        return x_BSH
    return (_gather if here.sequence_parallel else _copy)(x_BSH)


def leave_region(x_BSH: Tensor) -> Tensor:
    """The sum of the ranks' shares: all positions, or this rank's part of them."""
    here = topology.current()
    if here.degrees.tensor == 1:
        return x_BSH
    return (_sum_and_scatter if here.sequence_parallel else _sum)(x_BSH)


class _WholeOnEveryRank:
    """The input of column-parallel layers where no rank has it split."""

    def gather(self, x_BSH: Tensor) -> Tensor:
        return x_BSH

    def start_sum(self, dwhole_BSH: Tensor) -> Arriving:
        task = collectives.start_all_reduce(
            dwhole_BSH, topology.current().tensor_group, asynchronous=collectives.overlap()
        )
        return Arriving(dwhole_BSH, task)


class _SplitPositions:
    """The input of column-parallel layers where every rank has some positions of it."""

    def gather(self, x_BSH: Tensor) -> Tensor:
        return _gather_positions(x_BSH)

    def start_sum(self, dwhole_BSH: Tensor) -> Arriving:
        return _start_scatter(dwhole_BSH, asynchronous=collectives.overlap())


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


def _start_scatter(x_BSH: Tensor, *, asynchronous: bool) -> Arriving:
    """The sum over the ranks of this rank's positions, on its way."""
    B, S, H = x_BSH.shape
    group = topology.current().tensor_group
    parts_BTSH = x_BSH.reshape([B, group.nranks, S // group.nranks, H])
    whole = _swap(parts_BTSH).reshape([group.nranks * B, S // group.nranks, H])
    part = paddle.empty([B, S // group.nranks, H], x_BSH.dtype)
    task = collectives.reduce_scatter(part, whole, group, asynchronous=asynchronous)
    return Arriving(part, task, whole)


def _sum_and_scatter_positions(x_BSH: Tensor) -> Tensor:
    return _start_scatter(x_BSH, asynchronous=False).wait()


def _summed(x: Tensor) -> Tensor:
    return collectives.all_reduce(x.clone(), topology.current().tensor_group)


_copy, _sum = collectives.dual(Tensor.clone, _summed), collectives.dual(_summed, lambda x: x)
_gather = collectives.dual(_gather_positions, _sum_and_scatter_positions)
_sum_and_scatter = collectives.dual(_sum_and_scatter_positions, _gather_positions)
