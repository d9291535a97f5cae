"""The decoder: an embedding, blocks of attention and feed-forward, and a head.

Shapes: B batch, S sequence, H hidden, I intermediate, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from paddle import Tensor, nn

from llm_pretrain import ops
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.layers import Attention, FeedForward, norm
from llm_pretrain.models.position import PositionEmbedding
from llm_pretrain.parallel.layers.micro_batch import Sequences, whole_sequences
from llm_pretrain.parallel.layers.vocabulary import (
    VocabularyParallelEmbedding,
    VocabularyParallelHead,
)


class TokenEmbedding(nn.Layer):
    """Token ids to vectors."""

    prefix = ""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.table = VocabularyParallelEmbedding(
            model.vocab_size, model.hidden_size, std=model.initializer_range
        )
        self.positions = PositionEmbedding(model) if model.learned_positions else None
        self.embedding_norm = norm(model) if model.embedding_norm else None
        self.gradient_share = model.embedding_gradient_share
        self.dropout = model.embedding_dropout

    def forward(self, tokens_BS: Tensor, sequences: Sequences) -> Tensor:
        x_BSH = self.table(tokens_BS)
        if self.gradient_share != 1.0:
            x_BSH = ops.scale_gradient(x_BSH, self.gradient_share)
        if self.positions is not None:
            x_BSH = ops.add(x_BSH, self.positions(sequences))
        if self.embedding_norm is not None:
            x_BSH = self.embedding_norm(x_BSH)
        if self.dropout and self.training:
            numbers_BS = sequences.random_numbers("embedding", sequences.hidden_positions)
            x_BSH = ops.dropout(x_BSH, self.dropout, numbers_BS)
        return x_BSH


class DecoderBlock(nn.Layer):
    """x + Attention(Norm(x)), then x + FeedForward(Norm(x)).

    With `residual_from_norm`, n = Norm(x) takes the place of x: s n + Attention(n) for a scale s.
    """

    def __init__(self, model: ModelConfig, index: int) -> None:
        super().__init__()
        self.prefix = f"layers.{index}."
        self.attention_norm = norm(model)
        self.attention = Attention(model, f"{self.prefix}attention")
        self.feed_forward_norm = norm(model)
        self.feed_forward = FeedForward(model)
        self.dropout = model.hidden_dropout
        self.residual_from_norm = model.residual_from_norm
        self.residual_scale = model.residual_scale

    def forward(self, x_BSH: Tensor, sequences: Sequences) -> Tensor:
        n_BSH = self.attention_norm(x_BSH)
        branch_BSH = self._dropped(self.attention(n_BSH, sequences), sequences, "attention_dropout")
        x_BSH, n_BSH = self.feed_forward_norm.of_sum(self._residual(x_BSH, n_BSH), branch_BSH)
        branch_BSH = self._dropped(self.feed_forward(n_BSH), sequences, "feed_forward_dropout")
        return ops.add(self._residual(x_BSH, n_BSH), branch_BSH)

    def _residual(self, x_BSH: Tensor, n_BSH: Tensor) -> Tensor:
        return n_BSH.scale(self.residual_scale) if self.residual_from_norm else x_BSH

    def _dropped(self, branch_BSH: Tensor, sequences: Sequences, place: str) -> Tensor:
        if not (self.dropout and self.training):
            return branch_BSH
        numbers_BS = sequences.random_numbers(self.prefix + place, sequences.hidden_positions)
        return ops.dropout(branch_BSH, self.dropout, numbers_BS)


class LanguageModelHead(nn.Layer):
    """Vectors to logits over the vocabulary, or to losses.

    Args:
        table: the embedding's table where head and embedding are tied. A tied head that is built
            without one holds a table of its own, under the embedding's name.
    """

    prefix = ""

    def __init__(
        self,
        model: ModelConfig,
        table: VocabularyParallelEmbedding | None = None,
        z_loss_coefficient: float = 0.0,
    ) -> None:
        super().__init__()
        std = model.initializer_range
        self.norm = norm(model)
        if model.tie_word_embeddings:
            self.table = table or VocabularyParallelEmbedding(
                model.vocab_size, model.hidden_size, std=std
            )
        self.projection = VocabularyParallelHead(
            model.hidden_size,
            model.vocab_size,
            std=std,
            tied_weight=self.table.weight if model.tie_word_embeddings else None,
            normalised=model.norm_head,
            in_slices=model.use_fused_linear_cross_entropy,
            z_loss_coefficient=z_loss_coefficient,
        )

    def forward(
        self, x_BSH: Tensor, sequences: Sequences, labels_BS: Tensor | None = None
    ) -> Tensor:
        """Logits [B, S, V]; with labels, the loss of every token, float32 [B, S]."""
        return self.projection(self.norm(x_BSH), labels_BS)


@dataclass(frozen=True)
class Chunk:
    """Layers of a decoder that follow each other: some blocks, and what stands at either end."""

    blocks: range
    has_embedding: bool
    has_head: bool


class Decoder(nn.Layer):
    """A whole model, or those chunks of one that a rank of a pipeline holds.

    Its parameters hold no values until they are initialised or loaded.

    Args:
        chunks: those that are here, in order; by default one, which is the whole model.
        z_loss_coefficient: as `VocabularyParallelHead` has it.

    Attributes:
        chunks: of each chunk its layers in order; one tensor passes from each to the next.
        blocks: the decoder blocks here, by layer number.
    """

    def __init__(
        self,
        model: ModelConfig,
        chunks: Sequence[Chunk] | None = None,
        z_loss_coefficient: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = model
        whole = Chunk(range(model.num_hidden_layers), has_embedding=True, has_head=True)
        chunks = [whole] if chunks is None else chunks
        self.blocks = {
            number: DecoderBlock(model, number) for chunk in chunks for number in chunk.blocks
        }
        table = None
        lists: list[list[nn.Layer]] = []
        for chunk in chunks:
            layers: list[nn.Layer] = [self.blocks[number] for number in chunk.blocks]
            if chunk.has_embedding:
                embedding = TokenEmbedding(model)
                table = embedding.table
                layers.insert(0, embedding)
            if chunk.has_head:
                layers.append(LanguageModelHead(model, table, z_loss_coefficient))
            lists.append(layers)
        self.set_chunks(lists)

    def set_chunks(self, chunks: list[list[nn.Layer]]) -> None:
        """Compute these layers, which hold the parameters of those before, in their place."""
        self.chunks = chunks
        self.layers = nn.LayerList(chain(*chunks))

    def forward(
        self,
        x: Tensor,
        sequences: Sequences | None = None,
        labels_BS: Tensor | None = None,
        chunk: int = 0,
    ) -> Tensor:
        """Token ids [B, S] to logits [B, S, V]; each position sees itself and those before it.

        With labels [B, S], to the loss of every token, float32 [B, S]. A chunk other than the
        first takes the hidden states [B, S, H] of the chunk before it, and one other than the
        last, which is given no labels, gives them.
        """
        sequences = sequences or whole_sequences(*x.shape[:2])
        *layers, last = self.chunks[chunk]
        for layer in layers:
            x = layer(x, sequences)
        return last(x, sequences) if labels_BS is None else last(x, sequences, labels_BS)
