"""This rank's part of a model: all of it, or one stage of a pipeline."""

from __future__ import annotations

from paddle import Tensor, nn

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.decoder import decoder_pieces
from llm_pretrain.parallel.micro_batch import Sequences
from llm_pretrain.parallel.topology import Topology


class Stage(nn.Layer):
    """Consecutive pieces of a decoder.

    Args:
        pieces: in order, the blocks among them.
        blocks: the decoder blocks here, by layer number.
    """

    def __init__(self, pieces: list[nn.Layer], blocks: dict[int, nn.Layer]) -> None:
        super().__init__()
        self.pieces = nn.LayerList(pieces)
        self.blocks = blocks

    def forward(self, x: Tensor, sequences: Sequences) -> Tensor:
        for piece in self.pieces:
            x = piece(x, sequences)
        return x


def layers_of_stage(layers: int, stage: int, stages: int) -> range:
    """Which of `layers` blocks `stage` holds: as even as can be, later stages the larger."""
    return range(stage * layers // stages, (stage + 1) * layers // stages)


def build_stage(config: ModelConfig, topology: Topology) -> Stage:
    """This rank's pieces, with no values yet."""
    (first, *descriptions, last) = decoder_pieces(config)
    pieces: list[nn.Layer] = []
    blocks: dict[int, nn.Layer] = {}
    tied = {}
    if topology.is_first_stage:
        embedding = first[0](**first[1])
        pieces.append(embedding)
        if topology.is_last_stage and config.tie_word_embeddings:
            tied = {"table": embedding.table}
    for number in layers_of_stage(
        config.num_hidden_layers, topology.pipeline_rank, topology.degrees.pipeline
    ):
        kind, arguments = descriptions[number]
        blocks[number] = kind(**arguments)
        pieces.append(blocks[number])
    if topology.is_last_stage:
        pieces.append(last[0](**last[1], **tied))
    return Stage(pieces, blocks)
