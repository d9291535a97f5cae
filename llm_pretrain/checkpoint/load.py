"""Filling a model with published weights, and its optimizer with a checkpoint's state."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor, nn

from llm_pretrain.checkpoint.optimizer_state import VALUES, SavedOptimizer
from llm_pretrain.checkpoint.published_weights import PublishedWeights, table_rows
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.parallel.sharding.buckets import Bucket
from llm_pretrain.parallel.sharding.pieces import (
    Piece,
    assemble,
    fill,
    initial_values,
    local_block,
)


def load_weights(
    module: nn.Layer,
    model: ModelConfig,
    directory: str | Path,
    *,
    may_be_deeper: bool = False,
    seed: int | None = None,
) -> None:
    """Fill the parameters of `module`, a decoder or a part of it, each with this rank's part.

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
    published = model
    if seed is not None:
        rows = min(table_rows(directory, model), model.vocab_size)
        published = replace(model, vocab_size=rows)
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

    fill(module, local_part)


def load_optimizer(
    checkpoint: Path, buckets: list[Bucket], betas: tuple[float, float]
) -> tuple[list[dict[str, Tensor]], int]:
    """This rank's shards of a checkpoint of any layout, bucket by bucket, and the steps so far."""
    saved = SavedOptimizer(checkpoint, betas)
    states = []
    for buffer in (bucket.buffer for bucket in buckets):
        tensors = {}
        for value in VALUES:
            shard = np.zeros(buffer.shard_size, dtype=np.float32)
            for placement, begin, end in buffer.shard_placements():
                read = partial(_read_piece, saved, value)
                shape = tuple(placement.parameter.shape)
                parameter = assemble(placement.pieces, shape, read).reshape(-1)
                shard[begin - buffer.shard_begin : end - buffer.shard_begin] = parameter[
                    begin - placement.begin : end - placement.begin
                ]
            tensors[value] = paddle.to_tensor(shard)
        states.append(tensors)
    return states, saved.steps


def _read_piece(saved: SavedOptimizer, value: str, piece: Piece) -> np.ndarray:
    return saved.read(piece.name, piece.shape, local_block(piece), value)
