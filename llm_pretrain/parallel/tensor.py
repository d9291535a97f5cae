"""Layers whose weights the tensor-parallel group shares (Shoeybi et al., arXiv:1909.08053).

At degree 1 they are plain layers. Legend of shapes: B batch, S sequence, H hidden, V vocabulary;
the local share of an axis over the group is written V/t. With sequence parallelism hidden states
outside these layers have S/t positions.

A vocabulary that the degree does not divide is padded: the last ranks' shares end in rows of zeros
whose logits are minus infinity, so that they change neither loss nor gradients.
"""

from __future__ import annotations

import math
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from llm_pretrain import ops
from llm_pretrain.ops.precision import in_float32_on_cpu
from llm_pretrain.parallel import collectives, tensor_region, topology
from llm_pretrain.parallel.pieces import Normal, Piece


def tensor_parallel_share(size: int) -> int:
    """This rank's share of an axis of `size`, padding included."""
    return -(-size // topology.current().degrees.tensor)


def _parameter(layer: nn.Layer, shape: list[int], pieces: list[Piece]) -> Tensor:
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
            self.weights.append(_parameter(self, [in_features, width], weight_pieces))
            self.add_parameter(f"{label}_weight", self.weights[-1])
            self.biases.append(_parameter(self, [width], bias_pieces) if bias else None)
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
        y = tensor_region.leave(ops.linear(x, self.weight))
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
        """Token ids [B, S] -> [B, S, H], of this rank's positions."""
        if topology.current().degrees.tensor == 1:
            return nn.functional.embedding(tokens_BS, self.weight)
        local_BS, mine_BS = _local_ids(tokens_BS, self.share)
        x_BSH = nn.functional.embedding(local_BS, self.weight)
        mine_BS1 = mine_BS.astype(x_BSH.dtype).unsqueeze(-1)
        return tensor_region.leave(in_float32_on_cpu(paddle.multiply, x_BSH, mine_BS1))


class VocabularyParallelHead(nn.Layer):
    """Hidden states to this rank's part of the logits.

    Args:
        tied_weight: the embedding's table [V/t, H] to use; None: a weight [H, V/t] of its own.
        normalised: the weights of every token are divided by their Euclidean norm.
    """

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        *,
        std: float,
        tied_weight: Tensor | None = None,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        self.tied = tied_weight is not None
        self.normalised = normalised
        share = tensor_parallel_share(vocab_size)
        present = vocab_size - topology.current().tensor_rank * share
        self.padding = None
        if present < share:
            hidden = [0.0] * max(present, 0) + [-math.inf] * (share - max(present, 0))
            self.padding = paddle.to_tensor(hidden, dtype="float32")
        if tied_weight is not None:
            self.weight = tied_weight
        else:
            piece = Piece("head.weight", (hidden_size, vocab_size), 1, 0, Normal(std))
            self.weight = _parameter(self, [hidden_size, share], [piece])

    def forward(self, x_BSH: Tensor) -> Tensor:
        """[B, S, H] -> logits [B, S, V/t]."""
        x_BSH, weight = tensor_region.enter(x_BSH), self.weight
        if self.normalised:
            weight = ops.normalise_columns(weight.T if self.tied else weight)
        is_transposed = self.tied and not self.normalised
        logits_BSV = ops.linear(x_BSH, weight, transposed=is_transposed)
        if self.padding is None:
            return logits_BSV
        return (logits_BSV.astype("float32") + self.padding).astype(logits_BSV.dtype)


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
        mine = (mine & counts).unsqueeze(-1)
        target = paddle.take_along_axis(shifted, local.unsqueeze(-1), axis=-1)
        # Not a product: the logit of padding is minus infinity.
        target = paddle.where(mine, target, paddle.zeros_like(target))
        collectives.all_reduce(target, group)
        ctx.save_for_backward(exponentials / total, local, mine.astype("float32"), counts)
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
