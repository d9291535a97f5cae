"""Layers whose weights the tensor-parallel group shares (Shoeybi et al., arXiv:1909.08053).

At degree 1 they are plain layers. The local share of an axis over the group of t ranks is written
out / t. With sequence parallelism hidden states outside these layers have S / t positions.
"""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from llm_pretrain import ops
from llm_pretrain.ops.precision import in_float32_on_cpu
from llm_pretrain.parallel import tensor_region, topology
from llm_pretrain.parallel.pieces import Normal, Piece


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
        ys = ops.linears(tensor_region.enter(x), weights, biases)
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
        y = tensor_region.leave(ops.linear(x, self.weight))
        return y if self.bias is None else in_float32_on_cpu(paddle.add, y, self.bias)
