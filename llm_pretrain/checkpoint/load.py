"""Filling a model with published weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from paddle import nn

from llm_pretrain.checkpoint.published_weights import PublishedWeights, table_rows
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.parallel.sharding.pieces import Piece, fill, initial_values, local_block


def load_weights(
    model: nn.Layer,
    config: ModelConfig,
    directory: str | Path,
    *,
    may_be_deeper: bool = False,
    seed: int | None = None,
) -> None:
    """Fill the parameters of `model`, a decoder or a part of it, each with this rank's part.

    float32, float16 and bfloat16 files are read into parameters of any of these types.

    Args:
        may_be_deeper: whether the files may hold more layers than the model has.
        seed: given where they may hold fewer rows of the vocabulary. The model's further rows are
            those that its whole table has when it is initialised with this seed.

    Raises:
        ConfigError: no weights there, unreadable ones, or all tensors that are missing, are not
            the model's, or have another shape.
    """
    directory = Path(directory)
    published = config
    if seed is not None:
        rows = min(table_rows(directory, config), config.vocab_size)
        published = replace(config, vocab_size=rows)
    weights = PublishedWeights(directory, published, may_be_deeper=may_be_deeper)

    def local_part(piece: Piece) -> np.ndarray:
        block, shape = local_block(piece), weights.shapes[piece.name]
        known = tuple(
            slice(min(part.start, size), min(part.stop, size))
            for part, size in zip(block, shape, strict=True)
        )
        values = weights.read(piece.name, known)
        if known == block:
            return values
        assert seed is not None
        grown = initial_values(piece, seed)[block]
        grown[tuple(slice(size) for size in values.shape)] = values
        return grown

    fill(model, local_part)
