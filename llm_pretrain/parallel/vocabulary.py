"""Embedding and head over a vocabulary that the tensor-parallel group shares.

Shapes: B batch, S sequence, H hidden, V vocabulary, of which this rank has V/t.

A vocabulary that the degree does not divide is padded: the last ranks' shares end in rows of zeros
whose logits are minus infinity, so that they change neither loss nor gradients.
"""

from __future__ import annotations

import math

import paddle
from paddle import Tensor, nn

from llm_pretrain import ops
from llm_pretrain.ops.precision import in_float32_on_cpu, to_compute_dtype
from llm_pretrain.parallel import tensor_region, topology
from llm_pretrain.parallel.pieces import Normal, Piece
from llm_pretrain.parallel.tensor import parameter_of, tensor_parallel_share
from llm_pretrain.parallel.vocabulary_loss import local_ids, losses_in_chunks, losses_of_logits


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
        return tensor_region.leave(in_float32_on_cpu(paddle.multiply, x_BSH, mine_BS1))


class VocabularyParallelHead(nn.Layer):
    """Hidden states to this rank's part of the logits.

    Args:
        tied_weight: the embedding's table [V/t, H] to use; None: a weight [H, V/t] of its own.
        normalised: the weights of every token are divided by their Euclidean norm.
        in_chunks: keep no logits for the loss, whichever operator serves.
    """

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        *,
        std: float,
        tied_weight: Tensor | None = None,
        normalised: bool = False,
        in_chunks: bool = False,
    ) -> None:
        super().__init__()
        self.tied = tied_weight is not None
        self.normalised = normalised
        self.in_chunks = in_chunks
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
        x_BSH, weight = tensor_region.enter(x_BSH), self.weight
        if self.normalised:
            weight = ops.normalise_columns(weight.T if self.tied else weight)
        is_transposed = self.tied and not self.normalised
        if labels_BS is not None:
            x_BSH = to_compute_dtype(x_BSH)
            if self.in_chunks or ops.head_is_native(x_BSH, weight):
                return losses_in_chunks(
                    x_BSH, weight, labels_BS, present=self.present, transposed=is_transposed
                )
        logits_BSV = ops.linear(x_BSH, weight, transposed=is_transposed)
        if self.padding is not None:
            logits_BSV = (logits_BSV.astype("float32") + self.padding).astype(logits_BSV.dtype)
        return logits_BSV if labels_BS is None else losses_of_logits(logits_BSV, labels_BS)
