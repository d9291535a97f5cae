"""Filling a model with published weights."""

from __future__ import annotations

from pathlib import Path

from paddle import nn

from llm_pretrain.checkpoint.published_weights import PublishedWeights
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.parallel.pieces import fill, local_block


def load_weights(
    model: nn.Layer, config: ModelConfig, directory: str | Path, *, may_be_deeper: bool = False
) -> None:
    """Fill the parameters of `model`, a decoder or a part of it, each with this rank's part.

    float32, float16 and bfloat16 files are read into parameters of any of these types.

    Args:
        may_be_deeper: whether the files may hold more layers than the model has.

    Raises:
        ConfigError: no weights there, unreadable ones, or all tensors that are missing, are not
            the model's, or have another shape.
    """
    weights = PublishedWeights(Path(directory), config, may_be_deeper=may_be_deeper)
    fill(model, lambda piece: weights.read(piece.name, local_block(piece)))
