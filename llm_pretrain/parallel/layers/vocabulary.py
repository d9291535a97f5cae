"""Embedding and head over a vocabulary that the tensor-parallel group shares.

Shapes: B batch, S sequence, H hidden, V vocabulary, of which this rank has V/t.

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
from llm_pretrain.ops.gradients import for_trained, note_trained, sum_of_gradients
from llm_pretrain.ops.operator import in_float32_on_cpu, to_compute_dtype
from llm_pretrain.parallel.comm import collectives, topology
from llm_pretrain.parallel.layers.tensor import (
    enter_region,
    leave_region,
    parameter_of,
    shared_input,
    tensor_parallel_share,
)
from llm_pretrain.parallel.sharding.pieces import Normal, Piece


class VocabularyParallelEmbedding(nn.Layer):
    """A table [V, H] of which every rank holds the rows of its tokens."""

    def __init__(self, vocab_size: int, hidden_size: int, *, std: float) -> None:
        super().__init__()
        self.share = tensor_parallel_share(vocab_size)
        self.weight = parameter_of(
            self,
            [self.share, hidden_size],
            [Piece("embedding.weight", (vocab_size, hidden_size), 0, 0, Normal(std))],
        )

    def forward(self, tokens_BS: Tensor) -> Tensor:
        """Token ids [B, S] -> [B, S, H], of this rank's positions."""
        if topology.current().degrees.tensor == 1:
            return ops.embedding(tokens_BS, self.weight)
        local_BS, mine_BS = local_ids(tokens_BS, self.share)
        x_BSH = ops.embedding(local_BS, self.weight)
        mine_BS1 = mine_BS.astype(x_BSH.dtype).unsqueeze(-1)
        return leave_region(in_float32_on_cpu(paddle.multiply, x_BSH, mine_BS1))


class VocabularyParallelHead(nn.Layer):
    """Hidden states to this rank's part of the logits.

    Args:
        tied_weight: the embedding's table [V/t, H] to use; None: a weight [H, V/t] of its own.
        normalised: the weights of every token are divided by their Euclidean norm.
        in_slices: keep no logits for the loss, whichever operator serves.
        z_loss_coefficient: of log² Σ exp(logits), which is added to the loss of every token that is
            trained on (PaLM, arXiv:2204.02311, 5); evaluation leaves it out.
    """

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        *,
        std: float,
        tied_weight: Tensor | None = None,
        normalised: bool = False,
        in_slices: bool = False,
        z_loss_coefficient: float = 0.0,
    ) -> None:
        super().__init__()
        self.tied = tied_weight is not None
        self.normalised = normalised
        self.in_slices = in_slices
        self.z_loss_coefficient = z_loss_coefficient
        share = tensor_parallel_share(vocab_size)
        first = topology.current().tensor_rank * share
        self.present = min(max(vocab_size - first, 0), share)
        self.padding = None
        if self.present < share:
            hidden = [0.0] * self.present + [-math.inf] * (share - self.present)
            self.padding = paddle.to_tensor(hidden, dtype="float32")
        if tied_weight is not None:
            self.weight = tied_weight
        else:
            piece = Piece("head.weight", (hidden_size, vocab_size), 1, 0, Normal(std))
            self.weight = parameter_of(self, [hidden_size, share], [piece])

    def forward(self, x_BSH: Tensor, labels_BS: Tensor | None = None) -> Tensor:
        """[B, S, H] -> logits [B, S, V/t]; with labels [B, S], the loss of every token, float32."""
        weight = self.weight
        if self.normalised:
            weight = ops.normalise_columns(weight.T if self.tied else weight)
        is_transposed = self.tied and not self.normalised
        z_loss = self.z_loss_coefficient
        if z_loss and not paddle.is_grad_enabled():
            z_loss = 0.0
        if labels_BS is not None and (
            self.in_slices or ops.serves_head(to_compute_dtype(x_BSH), weight)
        ):
            x_BSH = to_compute_dtype(enter_region(x_BSH))
            return losses_in_slices(
                x_BSH,
                weight,
                labels_BS,
                present=self.present,
                transposed=is_transposed,
                z_loss=z_loss,
            )
        logits_BSV = ops.linear(x_BSH, weight, transposed=is_transposed, shared=shared_input())
        if self.padding is not None:
            logits_BSV = (logits_BSV.astype("float32") + self.padding).astype(logits_BSV.dtype)
        return logits_BSV if labels_BS is None else losses_of_logits(logits_BSV, labels_BS, z_loss)


IGNORED_LABEL = -100
"""The label of a token that has no loss and no gradient."""


def local_ids(tokens: Tensor, share: int) -> tuple[Tensor, Tensor]:
    """Ids relative to this rank's rows (0 where they are another's), and which are this rank's."""
    first = topology.current().tensor_rank * share
    mine = (tokens >= first) & (tokens < first + share)
    return paddle.where(mine, tokens - first, paddle.zeros_like(tokens)), mine


def losses_of_logits(logits_BSV: Tensor, labels_BS: Tensor, z_loss: float = 0.0) -> Tensor:
    """Cross entropy per token, float32 [B, S], of logits [B, S, V/t] and labels [B, S].

    Args:
        z_loss: coefficient of log² Σ exp(logits), which is added.
    """
    if topology.current().degrees.tensor == 1 and not z_loss:
        return ops.cross_entropy(logits_BSV, labels_BS, IGNORED_LABEL)
    return _CrossEntropy.apply(logits_BSV.astype("float32"), labels_BS, z_loss)


class _CrossEntropy(PyLayer):
    """loss = L - z[label] + c L² with L = log(sum(exp(z))), over logits that the group shares."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, z_loss: float) -> Tensor:
        group = topology.current().tensor_group
        largest = collectives.all_reduce(logits.max(axis=-1, keepdim=True), group, "max")
        shifted = logits - largest
        exponentials = shifted.exp()
        total = collectives.all_reduce(exponentials.sum(axis=-1, keepdim=True), group)
        counts = labels != IGNORED_LABEL
        local, mine = local_ids(labels, logits.shape[-1])
        mine = (mine & counts).unsqueeze(-1)
        target = paddle.take_along_axis(shifted, local.unsqueeze(-1), axis=-1)
        # Not a product: the logit of padding is minus infinity.
        target = paddle.where(mine, target, paddle.zeros_like(target))
        collectives.all_reduce(target, group)
        losses, softmax = total.log() - target, exponentials / total
        if z_loss:
            log_sum = largest + total.log()
            losses += z_loss * log_sum.square()
            softmax *= 1 + 2 * z_loss * log_sum
        ctx.save_for_backward(softmax, local, mine.astype("float32"), counts)
        return losses.squeeze(-1) * counts.astype("float32")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        softmax, local, mine, counts = ctx.saved_tensor()
        share = softmax.shape[-1]
        one_hot = nn.functional.one_hot(local, share) * mine
        return (softmax - one_hot) * (gradient * counts.astype("float32")).unsqueeze(-1)


def losses_in_slices(
    x_BSH: Tensor,
    weight: Tensor,
    labels_BS: Tensor,
    *,
    present: int,
    transposed: bool,
    z_loss: float = 0.0,
) -> Tensor:
    """`losses_of_logits` of the logits x W, which are never in memory whole.

    Args:
        x_BSH: in the compute dtype.
        weight: [H, V/t], or [V/t, H] if `transposed`.
        present: how many of this rank's tokens are not padding.

    Returns:
        float32 [B, S].
    """
    return _LinearCrossEntropy.apply(x_BSH, weight, labels_BS, present, transposed, z_loss)


class _LinearCrossEntropy(PyLayer):
    @staticmethod
    def forward(
        ctx: Any,
        x_BSH: Tensor,
        weight: Tensor,
        labels_BS: Tensor,
        present: int,
        transposed: bool,
        z_loss: float,
    ) -> Tensor:
        x_RH = x_BSH.reshape([-1, x_BSH.shape[-1]])
        counts = labels_BS != IGNORED_LABEL
        local, mine = local_ids(labels_BS, weight.shape[0 if transposed else 1])
        labels_R = paddle.where(mine & counts, local, paddle.full_like(local, -1)).reshape([-1])
        labels_R = labels_R.astype("int64")
        largest, total, target = ops.linear_log_sums(
            x_RH, weight, labels_R, vocabulary=present, transposed=transposed
        )
        if topology.current().degrees.tensor > 1:
            largest, total, target = _over_the_group(largest, total, target)
        log_sums = largest + total.log()
        losses = log_sums - target
        if z_loss:
            losses += z_loss * log_sums.square()
            # The gradient of L + c L² is (1 + 2 c L) exp(z - L), which is exp(z - L').
            log_sums = log_sums - (1 + 2 * z_loss * log_sums).log()
        ctx.save_for_backward(x_RH, weight, labels_R, log_sums, counts)
        note_trained(ctx, x_BSH, weight, labels_BS)
        ctx.present, ctx.transposed = present, transposed
        return losses.reshape(labels_BS.shape) * counts.astype("float32")

    @staticmethod
    def backward(ctx: Any, gradient_BS: Tensor) -> tuple[Tensor | None, ...]:
        x_RH, weight, labels_R, log_sums, counts = ctx.saved_tensor()
        _, weight_is_trained, _ = ctx.trained
        total, dweight, has_values = None, None, False
        if weight_is_trained:
            total = sum_of_gradients(weight)
            dweight, has_values = total or (paddle.empty(weight.shape, "float32"), False)
        dx_RH = ops.linear_cross_entropy_gradients(
            x_RH,
            weight,
            labels_R,
            log_sums,
            (gradient_BS * counts.astype("float32")).reshape([-1]),
            vocabulary=ctx.present,
            transposed=ctx.transposed,
            dweight=dweight,
            accumulate=has_values,
        )
        dx_BSH = dx_RH.astype(x_RH.dtype).reshape([*gradient_BS.shape, -1])
        if dweight is not None:
            dweight = dweight.astype(weight.dtype) if total is None else None
        return for_trained(ctx, dx_BSH, dweight, None)


def _over_the_group(
    largest_R: Tensor, total_R: Tensor, target_R: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Maxima, sums of exponentials and the labels' logits over the whole vocabulary."""
    group = topology.current().tensor_group
    common_R = collectives.all_reduce(largest_R.clone(), group, "max")
    sums = paddle.stack([total_R * (largest_R - common_R).exp(), target_R])
    total_R, target_R = collectives.all_reduce(sums, group).unbind(0)
    return common_R, total_R, target_R
