"""Checkpoints of the training's state: what each rank writes, and writing it while all wait."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import paddle
from paddle import Tensor, nn

from llm_pretrain.checkpoint import write_weights
from llm_pretrain.checkpoint.disks import own_share
from llm_pretrain.checkpoint.optimizer_state import (
    VALUES,
    SavedPiece,
    SavedRange,
    slices_to_block,
)
from llm_pretrain.checkpoint.part import (
    FLIPPED,
    KEEP_ALL,
    CheckpointPart,
    Retention,
    WeightsPart,
)
from llm_pretrain.config import ConfigError
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.data.preprocess.tokenizers import copy_along
from llm_pretrain.machine.files import describe
from llm_pretrain.ops import internals
from llm_pretrain.ops.bit_sum import bit_sums
from llm_pretrain.parallel.comm import collectives
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.sharding.buckets import Bucket, gathered_pieces
from llm_pretrain.parallel.sharding.flat_buffers import Placement
from llm_pretrain.parallel.sharding.optimizer import ShardedAdamW
from llm_pretrain.parallel.sharding.pieces import Piece, named_pieces

Result = TypeVar("Result")


class FailedSaveError(Exception):
    """A checkpoint that could not be written, on any rank; nothing of it is left."""


class RangeOfBucket(NamedTuple):
    """A saved range of a parameter, and where it stands in the shard of which bucket."""

    saved: SavedRange
    bucket: int
    begin: int
    end: int


class SavedState:
    """What this rank saves of a stage of the model and its optimizer.

    Args:
        folder: where checkpoints go. All ranks must build the object at the same time, since they
            find out who shares a disk with whom.
    """

    def __init__(
        self,
        folder: Path,
        stage: nn.Layer,
        model: ModelConfig,
        optimizer: ShardedAdamW,
        topology: Topology,
    ) -> None:
        self.stage = stage
        self.model = model
        self.optimizer = optimizer
        self.topology = topology
        share = own_share(folder, topology)
        self.is_first_of_disk = share.is_first_of_disk
        self.gathers_weights = not share.has_stage
        """Whether the weights of a checkpoint are gathered from the ranks of this stage; else they
        are made of the shards' files."""
        self.ranges: list[RangeOfBucket] | None = None
        if share.writes_shard:
            self.ranges = list(_saved_ranges(optimizer.buckets, topology))
        self.weights_part: WeightsPart | None = None
        if _is_first_replica(topology) and topology.sharding_rank == topology.tensor_rank == 0:
            self.weights_part = _weights_part(stage, topology, are_made=share.has_stage)

    def part(
        self,
        checkpoint: Path,
        state: dict[str, Any],
        extras: list[Path],
        retention: Retention = KEEP_ALL,
    ) -> CheckpointPart:
        """What this rank writes of `checkpoint` besides the values."""
        return CheckpointPart(
            checkpoint,
            self.topology.rank,
            self.is_first_of_disk,
            self.model,
            state,
            self.optimizer.steps,
            None if self.ranges is None else [entry.saved for entry in self.ranges],
            self.weights_part,
            extras,
            retention,
        )

    def shards(self) -> Iterator[tuple[str, Tensor]]:
        """The values of every saved range, each named "<range's key>/<kind of value>"."""
        states = [tensors for _, tensors in self.optimizer.state()]
        for saved, bucket, begin, end in self.ranges or ():
            for value in VALUES:
                yield f"{saved.key}/{value}", internals.view(states[bucket][value], begin, end)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each tensor of the stage, whole, by canonical name; every rank must run through it.

        There are none where no rank that writes weights needs this one's part of them.
        """
        topology, optimizer = self.topology, self.optimizer
        if not _is_first_replica(topology):
            return
        if topology.sharding_rank == 0:
            yield from whole_tensors(gathered_pieces(self.stage, optimizer.buckets), topology)
        elif not optimizer.weights_stay:
            deque(gathered_pieces(self.stage, optimizer.buckets), maxlen=0)


def save_checkpoint(
    saved: SavedState, part: CheckpointPart, sums: Sequence[int] | None = None
) -> None:
    """Write a checkpoint; every rank calls it, and all wait until it is published.

    Nodes may share a disk or not: each disk gets what the ranks that write to it hold,
    `trainer_state.json`, and the checksums of its files. What several ranks hold is written once
    per disk that has it first.

    Args:
        sums: of the bits of each bucket's masters and moments, which they still have when they are
            written (`machine.bit_sum`).

    Raises:
        FailedSaveError: on every rank alike.
    """

    def write() -> dict[str, write_weights.WrittenTensor]:
        tensors = saved.weights() if saved.gathers_weights else iter(())
        try:
            written = part.write(values_of(saved.shards()), values_of(tensors))
        finally:
            deque(tensors, maxlen=0)  # takes its part in the gathering, whatever happens here
        if sums is not None:
            values = [state[value] for _, state in saved.optimizer.state() for value in VALUES]
            if bit_sums(values).tolist() != sums:
                raise OSError(FLIPPED)
        return written

    try:
        together(part.prepare)
        written = together(write)
        written |= together(part.write_made_weights)
        everything = written_of_all_stages(written, saved.topology)
        together(lambda: part.publish(written, everything))
    except FailedSaveError:
        part.give_up()
        raise


def together(action: Callable[[], Result]) -> Result:
    """What `action` returns, when it has ended on every rank.

    Raises:
        FailedSaveError: the system refused a file on any of them, or values don't fit theirs.
    """
    problem, result = "", None
    try:
        result = action()
    except (OSError, ConfigError) as error:
        problem = describe(error)
    # Some have written much and some nothing: they meet before they talk.
    collectives.barrier()
    raise_first(collectives.gather_texts(problem))
    assert not problem
    return result  # type: ignore[return-value]


def raise_first(problems: Sequence[str]) -> None:
    """Raise FailedSaveError with the first of the ranks' problems, if any has one."""
    for rank, problem in enumerate(problems):
        if problem:
            raise FailedSaveError(f"rank {rank}: {problem}" if len(problems) > 1 else problem)


def written_of_all_stages(
    written: dict[str, write_weights.WrittenTensor], topology: Topology
) -> dict[str, write_weights.WrittenTensor]:
    """What all stages of the pipeline have written of the weights, by published name."""
    stages = collectives.all_gather_text(json.dumps(written), topology.pipeline_group)
    return {
        name: write_weights.WrittenTensor(*entry)
        for stage in stages
        for name, entry in json.loads(stage).items()
    }


def save_weights(saved: SavedState, directory: Path, extras: list[Path]) -> None:
    """Write the weights alone, in Hugging Face's format; every rank calls it.

    Args:
        extras: files and folders to put beside them, such as a tokenizer's.
    """
    tensors = saved.weights()
    written: dict[str, write_weights.WrittenTensor] = {}
    part = saved.weights_part
    if part is not None:
        written = write_weights.write_weight_files(
            values_of(tensors), saved.model, directory, label=part.label, dtype=part.dtype
        )
    deque(tensors, maxlen=0)
    collectives.barrier()
    everything = written_of_all_stages(written, saved.topology)
    if saved.topology.rank == 0:
        assert part is not None
        write_weights.finish_weights(everything, saved.model, directory, dtype=part.dtype)
        copy_along(extras, directory)
    collectives.barrier()


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
        # All parts have the same size, and may be longer together than the tensor is.
        region = [slice(0, size) for size in piece.shape]
        region[piece.axis] = slice(piece.offset, piece.offset + piece.share(degree))
        part = held[tuple(region)].contiguous()
        whole = collectives.all_gather(part, topology.tensor_group)
        if piece.axis != 0:
            whole = paddle.concat(paddle.split(whole, degree), piece.axis)
        region[piece.axis] = slice(0, piece.shape[piece.axis])
        yield piece.name, whole[tuple(region)]


def _saved_ranges(buckets: Sequence[Bucket], topology: Topology) -> Iterator[RangeOfBucket]:
    """This rank's shards, parameter by parameter."""
    places = (
        (number, bucket.buffer.shard_begin, *place)
        for number, bucket in enumerate(buckets)
        for place in bucket.buffer.shard_placements()
    )
    for key, (number, shard, placement, begin, end) in enumerate(places):
        saved = SavedRange(
            str(key),
            tuple(placement.parameter.shape),
            begin - placement.begin,
            end - placement.begin,
            tuple(_saved_pieces(placement, topology)),
        )
        yield RangeOfBucket(saved, number, begin - shard, end - shard)


def _saved_pieces(placement: Placement, topology: Topology) -> Iterator[SavedPiece]:
    degree = topology.degrees.tensor
    for piece in placement.pieces:
        yield SavedPiece(
            piece.name,
            piece.shape,
            slices_to_block(piece.block(topology.tensor_rank, degree)),
            slices_to_block(piece.region(topology.tensor_rank, degree)),
        )


def values_of(tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, np.ndarray]]:
    """The values of tensors, one at a time."""
    for name, tensor in tensors:
        yield name, values_on_host(tensor)


def values_on_host(tensor: Tensor) -> np.ndarray:
    """A tensor's memory, or a copy from an accelerator; bfloat16 as its bits in uint16."""
    if not tensor.place.is_cpu_place():
        # `numpy()` copies all of the memory that a part of a tensor lies in.
        return tensor.clone().numpy()
    if tensor.dtype == paddle.bfloat16:
        return np.from_dlpack(tensor.contiguous().view(paddle.int16)).view(np.uint16)
    return np.from_dlpack(tensor.detach())


def _is_first_replica(topology: Topology) -> bool:
    """Whether this rank is the first of those that hold the same shard of the same weights."""
    return topology.data_rank == 0 and topology.sequence_rank == 0


def _weights_part(stage: nn.Layer, topology: Topology, *, are_made: bool) -> WeightsPart:
    label = f"stage-{topology.pipeline_rank}" if topology.degrees.pipeline > 1 else ""
    dtype = str(stage.parameters()[0].dtype).removeprefix("paddle.")
    names = [piece.name for _, piece in named_pieces(stage)] if are_made else []
    return WeightsPart(label, dtype, names)
