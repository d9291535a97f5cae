"""Layers whose weights the tensor-parallel group shares (Shoeybi et al., arXiv:1909.08053).

At degree 1 they are plain layers. Legend of shapes: B batch, S sequence, H hidden, V vocabulary;
the local share of an axis over the group is written V/t.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from llm_pretrain import ops
from llm_pretrain.ops.precision import in_float32_on_cpu
from llm_pretrain.parallel import collectives, topology
from llm_pretrain.parallel.pieces import Normal, Piece


def tensor_parallel_share(size: int) -> int:
    """This rank's share of an axis of `size`."""
    degree = topology.current().degrees.tensor
    assert size % degree == 0, f"{size} is not divisible by the tensor parallel degree {degree}"
    return size // degree


class _CopyToGroup(PyLayer):
    """Identity forward; the gradient is summed over the group."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return collectives.all_reduce(gradient.clone(), topology.current().tensor_group)


class _SumOverGroup(PyLayer):
    """Sum over the group forward; the gradient passes through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return collectives.all_reduce(x.clone(), topology.current().tensor_group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def copy_to_group(x: Tensor) -> Tensor:
    return _CopyToGroup.apply(x) if topology.current().degrees.tensor > 1 else x


def sum_over_group(x: Tensor) -> Tensor:
    return _SumOverGroup.apply(x) if topology.current().degrees.tensor > 1 else x


def _parameter(layer: nn.Layer, shape: list[int], pieces: list[Piece]) -> Tensor:
    parameter = layer.create_parameter(shape, default_initializer=nn.initializer.Constant(0.0))
    parameter.pieces = tuple(pieces)
    return parameter


class ColumnParallelLinear(nn.Layer):
    """Linear maps of one input, split by output features.

    Args:
        in_features: size of the input's last axis, whole on every rank.
        outputs: name and whole size of each output; each name begins its tensors' names.
        fused: one weight (and one product) for all outputs instead of one each.
        std: standard deviation of the initial weights.
    """

    def __init__(
        self,
        in_features: int,
        outputs: dict[str, int],
        *,
        bias: bool = False,
        fused: bool = False,
        std: float,
    ) -> None:
        super().__init__()
        names = list(outputs)
        self.groups = [names] if fused else [[name] for name in names]
        self.shares = {name: tensor_parallel_share(size) for name, size in outputs.items()}
        self.weights: list[Tensor] = []
        self.biases: list[Tensor | None] = []
        for group in self.groups:
            width = sum(self.shares[name] for name in group)
            weight_pieces, bias_pieces, offset = [], [], 0
            for name in group:
                weight_pieces.append(
                    Piece(f"{name}.weight", (in_features, outputs[name]), 1, offset, Normal(std))
                )
                bias_pieces.append(Piece(f"{name}.bias", (outputs[name],), 0, offset))
                offset += self.shares[name]
            label = "_".join(group)
            self.weights.append(_parameter(self, [in_features, width], weight_pieces))
            self.add_parameter(f"{label}_weight", self.weights[-1])
            self.biases.append(_parameter(self, [width], bias_pieces) if bias else None)
            if bias:
                self.add_parameter(f"{label}_bias", self.biases[-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """x [..., in] -> one tensor [..., size / t] per output, in order."""
        x = copy_to_group(x)
        results: list[Tensor] = []
        for group, weight, bias in zip(self.groups, self.weights, self.biases, strict=True):
            y = ops.linear(x, weight, bias)
            shares = [self.shares[name] for name in group]
            results += [y] if len(group) == 1 else paddle.split(y, shares, axis=-1)
        return results


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
        self.weight = _parameter(
            self,
            [tensor_parallel_share(in_features), out_features],
            [Piece(f"{name}.weight", (in_features, out_features), 0, 0, Normal(std))],
        )
        self.bias = None
        if bias:
            self.bias = _parameter(
                self, [out_features], [Piece(f"{name}.bias", (out_features,), None)]
            )

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in / t] -> [..., out]."""
        if topology.current().degrees.tensor == 1:
            return ops.linear(x, self.weight, self.bias)
        y = sum_over_group(ops.linear(x, self.weight))
        return y if self.bias is None else in_float32_on_cpu(paddle.add, y, self.bias)


class VocabularyParallelEmbedding(nn.Layer):
    """A table [V, H] of which every rank holds the rows of its tokens."""

    def __init__(self, vocab_size: int, hidden_size: int, *, std: float) -> None:
        super().__init__()
        self.share = tensor_parallel_share(vocab_size)
        self.weight = _parameter(
            self,
            [self.share, hidden_size],
            [Piece("embedding.weight", (vocab_size, hidden_size), 0, 0, Normal(std))],
        )

    def forward(self, tokens_BS: Tensor) -> Tensor:
        """Token ids [B, S] -> [B, S, H]."""
        if topology.current().degrees.tensor == 1:
            return nn.functional.embedding(tokens_BS, self.weight)
        local_BS, mine_BS = _local_ids(tokens_BS, self.share)
        x_BSH = nn.functional.embedding(local_BS, self.weight)
        mine_BS1 = mine_BS.astype(x_BSH.dtype).unsqueeze(-1)
        return sum_over_group(in_float32_on_cpu(paddle.multiply, x_BSH, mine_BS1))


class VocabularyParallelHead(nn.Layer):
    """Hidden states to this rank's part of the logits.

    Args:
        tied_weight: the embedding's table [V/t, H] to use; None: a weight [H, V/t] of its own.
    """

    def __init__(
        self, hidden_size: int, vocab_size: int, *, std: float, tied_weight: Tensor | None = None
    ) -> None:
        super().__init__()
        self.tied = tied_weight is not None
        if tied_weight is not None:
            self.weight = tied_weight
        else:
            share = tensor_parallel_share(vocab_size)
            piece = Piece("head.weight", (hidden_size, vocab_size), 1, 0, Normal(std))
            self.weight = _parameter(self, [hidden_size, share], [piece])

    def forward(self, x_BSH: Tensor) -> Tensor:
        """[B, S, H] -> logits [B, S, V/t]."""
        weight = self.weight.T if self.tied else self.weight
        return ops.linear(copy_to_group(x_BSH), weight)


def _local_ids(tokens: Tensor, share: int) -> tuple[Tensor, Tensor]:
    """Ids relative to this rank's rows (0 where they are another's), and which are this rank's."""
    first = topology.current().tensor_rank * share
    mine = (tokens >= first) & (tokens < first + share)
    return paddle.where(mine, tokens - first, paddle.zeros_like(tokens)), mine


class _ParallelCrossEntropy(PyLayer):
    """loss = log(sum(exp(z))) - z[label], over logits that the group shares."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        group = topology.current().tensor_group
        largest = collectives.all_reduce(logits.max(axis=-1, keepdim=True), group, "max")
        shifted = logits - largest
        exponentials = shifted.exp()
        total = collectives.all_reduce(exponentials.sum(axis=-1, keepdim=True), group)
        counts = labels != ignore_index
        local, mine = _local_ids(labels, logits.shape[-1])
        mine = (mine & counts).astype("float32").unsqueeze(-1)
        target = paddle.take_along_axis(shifted, local.unsqueeze(-1), axis=-1) * mine
        collectives.all_reduce(target, group)
        ctx.save_for_backward(exponentials / total, local, mine, counts)
        return (total.log() - target).squeeze(-1) * counts.astype("float32")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        softmax, local, mine, counts = ctx.saved_tensor()
        share = softmax.shape[-1]
        one_hot = nn.functional.one_hot(local, share) * mine
        return (softmax - one_hot) * (gradient * counts.astype("float32")).unsqueeze(-1)


def vocabulary_parallel_cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int = -100
) -> Tensor:
    """Cross entropy per token, float32 [B, S], of logits [B, S, V/t] and labels [B, S].

    Tokens whose label is `ignore_index` get 0 and no gradient.
    """
    if topology.current().degrees.tensor == 1:
        return ops.cross_entropy(logits, labels, ignore_index)
    return _ParallelCrossEntropy.apply(logits.astype("float32"), labels, ignore_index)
