"""The decoder: an embedding, blocks of attention and feed-forward, and a head.

Shapes: B batch, S sequence, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

from paddle import Tensor, nn

from llm_pretrain import ops
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.attention import Attention
from llm_pretrain.models.feed_forward import FeedForward
from llm_pretrain.models.norm import RMSNorm
from llm_pretrain.parallel.micro_batch import Sequences, whole_sequences
from llm_pretrain.parallel.tensor import VocabularyParallelEmbedding, VocabularyParallelHead


class TokenEmbedding(nn.Layer):
    """Token ids to vectors."""

    prefix = ""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.table = VocabularyParallelEmbedding(
            config.vocab_size, config.hidden_size, std=config.initializer_range
        )
        self.dropout = config.hidden_dropout

    def forward(self, tokens_BS: Tensor, sequences: Sequences) -> Tensor:
        x_BSH = self.table(tokens_BS)
        if self.dropout and self.training:
            rows_BS = sequences.random_rows("embedding", sequences.hidden_positions)
            x_BSH = ops.dropout(x_BSH, self.dropout, rows_BS)
        return x_BSH


class DecoderBlock(nn.Layer):
    """x + Attention(Norm(x)), then x + FeedForward(Norm(x))."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.prefix = f"layers.{index}."
        self.attention_norm = RMSNorm(config)
        self.attention = Attention(config, f"{self.prefix}attention")
        self.feed_forward_norm = RMSNorm(config)
        self.feed_forward = FeedForward(config)
        self.dropout = config.hidden_dropout

    def forward(self, x_BSH: Tensor, sequences: Sequences) -> Tensor:
        branch_BSH = self.attention(self.attention_norm(x_BSH), sequences)
        x_BSH = self._add(branch_BSH, x_BSH, sequences, "attention_dropout")
        branch_BSH = self.feed_forward(self.feed_forward_norm(x_BSH))
        return self._add(branch_BSH, x_BSH, sequences, "feed_forward_dropout")

    def _add(self, branch_BSH: Tensor, x_BSH: Tensor, sequences: Sequences, place: str) -> Tensor:
        rows_BS = None
        if self.dropout and self.training:
            rows_BS = sequences.random_rows(self.prefix + place, sequences.hidden_positions)
        return ops.dropout_add(branch_BSH, x_BSH, self.dropout, rows_BS)


class LanguageModelHead(nn.Layer):
    """Vectors to logits over the vocabulary.

    Args:
        table: the embedding's table where head and embedding are tied. A tied head that is built
            without one holds a table of its own, under the embedding's name.
    """

    prefix = ""

    def __init__(
        self, config: ModelConfig, table: VocabularyParallelEmbedding | None = None
    ) -> None:
        super().__init__()
        std = config.initializer_range
        self.norm = RMSNorm(config)
        if config.tie_word_embeddings:
            self.table = table or VocabularyParallelEmbedding(
                config.vocab_size, config.hidden_size, std=std
            )
        self.projection = VocabularyParallelHead(
            config.hidden_size,
            config.vocab_size,
            std=std,
            tied_weight=self.table.weight if config.tie_word_embeddings else None,
        )

    def forward(self, x_BSH: Tensor, sequences: Sequences) -> Tensor:
        return self.projection(self.norm(x_BSH))


class Decoder(nn.Layer):
    """A whole model. Its parameters hold no values until they are initialised or loaded."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        (first, *blocks, last) = decoder_pieces(config)
        embedding = first[0](**first[1])
        tied = {"table": embedding.table} if config.tie_word_embeddings else {}
        self.pieces = nn.LayerList(
            [
                embedding,
                *(kind(**arguments) for kind, arguments in blocks),
                last[0](**last[1], **tied),
            ]
        )

    def forward(self, tokens_BS: Tensor, sequences: Sequences | None = None) -> Tensor:
        """Token ids [B, S] to logits [B, S, V]; each position sees itself and those before it."""
        x, sequences = tokens_BS, sequences or whole_sequences(*tokens_BS.shape)
        for piece in self.pieces:
            x = piece(x, sequences)
        return x


def decoder_pieces(config: ModelConfig) -> list[tuple[type[nn.Layer], dict[str, Any]]]:
    """The layers of a decoder in order, each with the arguments that build it.

    One tensor passes from each to the next, so that a model may be cut between any two. Each is
    given the `Sequences` beside it.
    """
    blocks = [
        (DecoderBlock, {"config": config, "index": index})
        for index in range(config.num_hidden_layers)
    ]
    return [(TokenEmbedding, {"config": config}), *blocks, (LanguageModelHead, {"config": config})]
