"""This rank's part of a model: all of it, or some chunks of its layers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.distributed.fleet.utils import recompute

from llm_pretrain.checkpoint.disks import is_first_of_node
from llm_pretrain.checkpoint.load import published_parts
from llm_pretrain.checkpoint.weight_files import assert_undamaged
from llm_pretrain.config import RunConfig, TrainingArguments
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.decoder import Chunk, Decoder
from llm_pretrain.models.maximal_update import MaximalUpdate
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.layers.micro_batch import Sequences
from llm_pretrain.parallel.pipeline.schedules import Place
from llm_pretrain.parallel.sharding.pieces import Piece, fill, local_initial_values


def layers_of_part(layers: int, part: int, parts: int) -> range:
    """Which of `layers` blocks `part` holds: as even as can be, later parts the larger."""
    return range(part * layers // parts, (part + 1) * layers // parts)


def build_stage(model: ModelConfig, topology: Topology, z_loss_coefficient: float = 0.0) -> Decoder:
    """The chunks of this rank, with no values yet."""
    ranks, count = topology.degrees.pipeline, topology.degrees.virtual_pipeline
    place = Place(topology.pipeline_rank, ranks, count)
    chunks = [
        Chunk(
            layers_of_part(model.num_hidden_layers, chunk * ranks + place.rank, ranks * count),
            has_embedding=place.is_first(chunk),
            has_head=place.is_last(chunk),
        )
        for chunk in range(count)
    ]
    return Decoder(model, chunks, z_loss_coefficient)


def prepare_stage(
    run: RunConfig, model: ModelConfig, topology: Topology, *, is_resumed: bool
) -> Decoder:
    """This rank's stage, with values unless a checkpoint will give them."""
    training = run.training
    paddle.set_default_dtype(training.weight_dtype)
    try:
        stage = build_stage(model, topology, training.z_loss_coefficient)
    finally:
        paddle.set_default_dtype("float32")
    if not is_resumed:
        if run.model.continue_training and is_first_of_node():
            assert_undamaged(Path(run.model.model_name_or_path))
        fill(stage, first_values(run, model))
    if training.recompute:
        recompute_activations(stage, training, topology)
    return stage


def first_values(run: RunConfig, model: ModelConfig) -> Callable[[Piece], np.ndarray]:
    """What gives this rank's part of a piece before the first step."""
    part: Callable[[Piece], np.ndarray] = partial(local_initial_values, seed=run.training.seed)
    if run.model.continue_training:
        part = published_parts(
            model,
            run.model.model_name_or_path,
            may_be_deeper=run.model.num_hidden_layers is not None,
            seed=run.training.seed if run.model.resize_vocabulary else None,
        )
    mup = MaximalUpdate(model, run.training)
    return lambda piece: part(piece.scaled(mup.scale(piece.name).initial))


def recompute_activations(stage: Decoder, training: TrainingArguments, topology: Topology) -> None:
    """Make blocks compute activations again in the backward pass instead of keeping them.

    `recompute_granularity` says of what: "full" the whole block, "full_attn" its attention,
    "core_attn" only softmax(Q K) V; each keeps more memory than the one before it and computes
    less twice.
    """
    left_out = training.no_recompute_layers or ()
    in_a_row = 1
    if topology.degrees.pipeline > 1 and training.recompute_granularity == "full":
        in_a_row = training.pp_recompute_interval
    if in_a_row == 0:
        return
    blocks = stage.blocks if in_a_row == 1 else join_blocks(stage, in_a_row, apart=left_out)
    apply_recompute(blocks, training.recompute_granularity, except_layers=left_out)


class BlockRun(nn.Layer):
    """Consecutive blocks as one layer."""

    def __init__(self, blocks: list[nn.Layer]) -> None:
        super().__init__()
        self.blocks = nn.LayerList(blocks)

    def forward(self, x: Tensor, sequences: Sequences) -> Tensor:
        for block in self.blocks:
            x = block(x, sequences)
        return x


def join_blocks(stage: Decoder, length: int, *, apart: Collection[int] = ()) -> dict[int, nn.Layer]:
    """Make runs of `length` blocks, or of those left in a chunk, one layer each.

    Args:
        apart: numbers of the blocks that stay layers of their own.

    Returns:
        The new layers, by the number of their first block.
    """
    numbers = {id(block): number for number, block in stage.blocks.items()}
    runs: dict[int, nn.Layer] = {}
    chunks: list[list[nn.Layer]] = []
    for layers in stage.chunks:
        joined: list[nn.Layer] = []
        run: BlockRun | None = None
        for layer in layers:
            number = numbers.get(id(layer))
            if number is None or number in apart:
                run = None
                joined.append(layer)
            elif run is not None and len(run.blocks) < length:
                run.blocks.append(layer)
            else:
                runs[number] = run = BlockRun([layer])
                joined.append(run)
        chunks.append(joined)
    stage.set_chunks(chunks)
    return runs


def _recomputed(function: Callable, layer: nn.Layer) -> Callable:
    def call(*arguments: Any) -> Any:
        if not layer.training:
            return function(*arguments)
        return recompute(function, *arguments, use_reentrant=False)

    return call


def apply_recompute(
    blocks: dict[int, nn.Layer],
    granularity: str,
    *,
    except_layers: Collection[int] = (),
) -> None:
    """Make the decoder blocks (by layer number) recompute, but those of `except_layers`."""
    for number, block in blocks.items():
        if number in except_layers:
            continue
        if granularity == "full":
            block.forward = _recomputed(block.forward, block)
        elif granularity == "full_attn":
            block.attention.forward = _recomputed(block.attention.forward, block)
        elif granularity == "core_attn":
            block.attention.core = _recomputed(block.attention.core, block)
        else:
            raise AssertionError(granularity)
