"""Writing a checkpoint, so that it is whole or not there."""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from paddle import Tensor, nn

from llm_pretrain.checkpoint import write_weights
from llm_pretrain.checkpoint.checksums import join_notes, note_files
from llm_pretrain.checkpoint.directory import PROGRAM, STATE_FILE, publish, writing_path
from llm_pretrain.checkpoint.optimizer_state import (
    VALUES,
    SavedPiece,
    SavedRange,
    slices_to_block,
    write_shard,
)
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.machine.files import write_text
from llm_pretrain.ops import internals
from llm_pretrain.parallel.comm import collectives
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.sharding.buckets import Bucket, gathered_pieces
from llm_pretrain.parallel.sharding.flat_buffers import Placement
from llm_pretrain.parallel.sharding.pieces import Piece
from llm_pretrain.preprocess.tokenizers import copy_along


def is_first_of_node() -> bool:
    """Whether this process is the one of its node that does what is done once per disk."""
    return os.environ.get("PADDLE_RANK_IN_NODE", "0") == "0"


def save_checkpoint(
    checkpoint: Path,
    module: nn.Layer,
    model: ModelConfig,
    optimizer_states: Iterable[tuple[Bucket, dict[str, Tensor]]],
    topology: Topology,
    buckets: Sequence[Bucket],
    *,
    steps: int,
    state: dict[str, Any],
    extras: list[Path],
) -> None:
    """Write weights, optimizer and `state`; every rank calls it.

    Nodes may share a disk or not: each disk gets what the ranks that write to it hold,
    `trainer_state.json`, and the checksums of its files. What several ranks hold is written once
    per disk that has it first.

    Args:
        steps: of the optimizer so far.
    """
    writing = writing_path(checkpoint)
    if is_first_of_node():
        shutil.rmtree(writing, ignore_errors=True)
    collectives.barrier()
    writing.mkdir(parents=True, exist_ok=True)
    mark = writing / ".rank-0"
    if topology.rank == 0:
        mark.touch()
    collectives.barrier()
    is_rank_0s_disk = mark.exists()
    try:
        written: list[Path] = []
        if _is_first_replica(topology) or not is_rank_0s_disk:
            written += save_optimizer(writing, optimizer_states, steps, topology)
        written += save_weights(writing, module, model, topology, buckets, extras=extras)
        if is_first_of_node():
            # Nodes that share the disk write the same text.
            text = json.dumps({"program": PROGRAM, **state}, indent=2)
            write_text(writing / STATE_FILE, text, writer=topology.rank)
            written.append(writing / STATE_FILE)
        note_files(writing, topology.rank, written)
        collectives.barrier()
        if is_first_of_node():
            join_notes(writing, topology.rank)
    except OSError:
        if topology.world_size == 1:  # others may still be writing there
            shutil.rmtree(writing, ignore_errors=True)
        raise
    collectives.barrier()
    if topology.rank == 0:
        mark.unlink()
    if topology.rank == 0 or (is_first_of_node() and not is_rank_0s_disk):
        publish(checkpoint, topology.rank)
    collectives.barrier()


def save_weights(
    directory: Path,
    module: nn.Layer,
    model: ModelConfig,
    topology: Topology,
    buckets: Sequence[Bucket],
    *,
    extras: list[Path],
) -> list[Path]:
    """Write the weights in Hugging Face's format, each stage its own files; every rank calls it.

    Args:
        buckets: what the model's parameters are in.
        extras: files and folders to put beside them, such as a tokenizer's.

    Returns:
        The files that this rank has written.
    """
    dtype = str(module.parameters()[0].dtype).removeprefix("paddle.")
    tensors = whole_tensors(gathered_pieces(module, buckets), topology)
    written: dict[str, write_weights.WrittenTensor] = {}
    if _is_first_replica(topology) and topology.sharding_rank == topology.tensor_rank == 0:
        label = f"stage-{topology.pipeline_rank}" if topology.degrees.pipeline > 1 else ""
        arrays = ((name, _values_of(tensor)) for name, tensor in tensors)
        written = write_weights.write_weight_files(
            arrays, model, directory, label=label, dtype=dtype
        )
    elif _is_first_replica(topology):
        deque(tensors, maxlen=0)  # takes its part in the gathering
    # Some have written much and some nothing: they meet before they talk again.
    collectives.barrier()
    stages = collectives.all_gather_text(json.dumps(written), topology.pipeline_group)
    files = {entry.file for entry in written.values()}
    if topology.rank == 0:
        everything = {
            name: write_weights.WrittenTensor(*entry)
            for stage in stages
            for name, entry in json.loads(stage).items()
        }
        files |= write_weights.finish_weights(everything, model, directory, dtype=dtype)
        files |= copy_along(extras, directory)
    collectives.barrier()
    # The only file of weights has another name by now.
    return [directory / name for name in sorted(files) if (directory / name).exists()]


def whole_tensors(
    pieces: Iterable[tuple[Tensor, Piece]], topology: Topology
) -> Iterator[tuple[str, Tensor]]:
    """Each published tensor of `pieces`, whole, one at a time.

    Every rank of the tensor-parallel group must run through it, since parts are gathered.
    """
    degree = topology.degrees.tensor
    for parameter, piece in pieces:
        held = parameter.detach()
        if piece.axis is None or degree == 1:
            yield piece.name, held[piece.region(topology.tensor_rank, degree)]
            continue
        # Gathering lays parts one after another along the first axis, and wants them equal.
        region = [slice(0, size) for size in piece.shape]
        region[piece.axis] = slice(piece.offset, piece.offset + piece.share(degree))
        swap = list(range(len(piece.shape)))
        swap[0], swap[piece.axis] = piece.axis, 0
        part = held[tuple(region)].transpose(swap).contiguous()
        whole = collectives.all_gather(part, topology.tensor_group)
        yield piece.name, whole[: piece.shape[piece.axis]].transpose(swap)


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
        (f"{entry.key}/{value}", _values_of(internals.view(tensors[value], begin, end)))
        for entry, (tensors, begin, end) in zip(ranges, parts, strict=True)
        for value in VALUES
    )
    return write_shard(directory, topology.rank, ranges, arrays, steps)


def _saved_pieces(placement: Placement, topology: Topology) -> Iterable[SavedPiece]:
    degree = topology.degrees.tensor
    for piece in placement.pieces:
        yield SavedPiece(
            piece.name,
            piece.shape,
            slices_to_block(piece.block(topology.tensor_rank, degree)),
            slices_to_block(piece.region(topology.tensor_rank, degree)),
        )


def _values_of(tensor: Tensor) -> np.ndarray:
    """The values of a tensor, which may be a part of another.

    It is copied first, because `numpy()` copies all of the memory that a part lies in: a bucket's
    256 MB for every parameter.
    """
    values: np.ndarray = tensor.clone().numpy()
    return values


def _is_first_replica(topology: Topology) -> bool:
    """Whether this rank is the first of those that hold the same shard of the same weights."""
    return topology.data_rank == 0 and topology.sequence_rank == 0
