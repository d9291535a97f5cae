"""Between the optimizer's flat shards and the state on disk."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor

from llm_pretrain.checkpoint.gather import values_of
from llm_pretrain.checkpoint.optimizer_state import (
    VALUES,
    SavedOptimizer,
    SavedPiece,
    SavedRange,
    slices_to_block,
    write_shard,
)
from llm_pretrain.ops import storage
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.sharding.buckets import Bucket
from llm_pretrain.parallel.sharding.flat_buffers import Placement
from llm_pretrain.parallel.sharding.pieces import Piece, assemble, local_block


def save_optimizer(
    directory: Path,
    states: Iterable[tuple[Bucket, dict[str, Tensor]]],
    steps: int,
    topology: Topology,
) -> list[Path]:
    """Write this rank's shards; returns the files."""
    ranges: list[SavedRange] = []
    parts: list[tuple[dict[str, Tensor], int, int]] = []
    for bucket, tensors in states:
        buffer = bucket.buffer
        for placement, begin, end in buffer.shard_placements():
            ranges.append(
                SavedRange(
                    str(len(ranges)),
                    tuple(placement.parameter.shape),
                    begin - placement.begin,
                    end - placement.begin,
                    tuple(_saved_pieces(placement, topology)),
                )
            )
            parts.append((tensors, begin - buffer.shard_begin, end - buffer.shard_begin))
    arrays = (
        (f"{entry.key}/{value}", values_of(storage.view(tensors[value], begin, end)))
        for entry, (tensors, begin, end) in zip(ranges, parts, strict=True)
        for value in VALUES
    )
    return write_shard(directory, topology.rank, ranges, arrays, steps)


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


def _saved_pieces(placement: Placement, topology: Topology) -> Iterable[SavedPiece]:
    degree = topology.degrees.tensor
    for piece in placement.pieces:
        yield SavedPiece(
            piece.name,
            piece.shape,
            slices_to_block(piece.block(topology.tensor_rank, degree)),
            slices_to_block(piece.region(topology.tensor_rank, degree)),
        )


def _read_piece(saved: SavedOptimizer, value: str, piece: Piece) -> np.ndarray:
    return saved.read(piece.name, piece.shape, local_block(piece), value)
