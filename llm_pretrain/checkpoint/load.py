"""Filling a model with published weights, and its optimizer with a checkpoint's state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.utils import dlpack

from llm_pretrain.checkpoint.optimizer_state import VALUES, SavedOptimizer
from llm_pretrain.checkpoint.published_weights import PublishedWeights, table_rows
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.parallel.sharding.buckets import Bucket
from llm_pretrain.parallel.sharding.flat_buffers import FlatBuffer
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
    """Fill the parameters of `module`, a decoder or a part of it; see `published_parts`."""
    fill(module, published_parts(model, directory, may_be_deeper=may_be_deeper, seed=seed))


def published_parts(
    model: ModelConfig,
    directory: str | Path,
    *,
    may_be_deeper: bool = False,
    seed: int | None = None,
) -> Callable[[Piece], np.ndarray]:
    """What reads this rank's part of a piece from published weights.

    float32, float16 and bfloat16 files are read for parameters of any of these types.

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

    return local_part


def load_optimizer(
    checkpoint: Path, buckets: list[Bucket], betas: tuple[float, float]
) -> tuple[list[dict[str, Tensor]], int]:
    """This rank's shards of a checkpoint of any layout, bucket by bucket, and the steps so far."""
    saved = SavedOptimizer(checkpoint, betas)
    states = [
        {value: _shard(bucket.buffer, partial(_read_piece, saved, value)) for value in VALUES}
        for bucket in buckets
    ]
    return states, saved.steps


def first_shards(
    buckets: list[Bucket], local_part: Callable[[Piece], np.ndarray]
) -> list[dict[str, Tensor]]:
    """This rank's shards before the first step, bucket by bucket.

    Args:
        local_part: this rank's part of a piece's initial values.
    """
    states = []
    for buffer in (bucket.buffer for bucket in buckets):
        # Masters are made of weights, which may have fewer bits.
        dtype = buffer.placements[0].parameter.dtype
        master = _shard(buffer, local_part).astype(dtype).astype("float32")
        states.append({value: paddle.zeros_like(master) for value in VALUES} | {"master": master})
    return states


def _shard(buffer: FlatBuffer, local_part: Callable[[Piece], np.ndarray]) -> Tensor:
    """This rank's shard of the parameters that are made of those parts."""
    shard = np.zeros(buffer.shard_size, dtype=np.float32)
    for placement, begin, end in buffer.shard_placements():
        shape = tuple(placement.parameter.shape)
        parameter = assemble(placement.pieces, shape, local_part).reshape(-1)
        shard[begin - buffer.shard_begin : end - buffer.shard_begin] = parameter[
            begin - placement.begin : end - placement.begin
        ]
    return dlpack.from_dlpack(shard)  # the same memory, of the host


def _read_piece(saved: SavedOptimizer, value: str, piece: Piece) -> np.ndarray:
    return saved.read(piece.name, piece.shape, local_block(piece), value)
