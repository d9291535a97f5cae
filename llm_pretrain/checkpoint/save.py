"""Writing a checkpoint, so that it is whole or not there."""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from paddle import Tensor, nn

from llm_pretrain.checkpoint import write_weights
from llm_pretrain.checkpoint.directory import PROGRAM, STATE_FILE, flush_file, publish, writing_path
from llm_pretrain.checkpoint.gather import values_of, whole_tensors
from llm_pretrain.checkpoint.shards import save_optimizer
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.parallel import collectives
from llm_pretrain.parallel.buckets import Bucket
from llm_pretrain.parallel.gathering import gathered_pieces
from llm_pretrain.parallel.topology import Topology


def is_first_of_node() -> bool:
    """Whether this process is the one of its node that does what is done once per disk."""
    return os.environ.get("PADDLE_RANK_IN_NODE", "0") == "0"


def save_checkpoint(
    checkpoint: Path,
    model: nn.Layer,
    config: ModelConfig,
    optimizer_states: Iterable[tuple[Bucket, dict[str, Tensor]]],
    topology: Topology,
    buckets: Sequence[Bucket],
    *,
    state: dict[str, Any],
    extras: list[Path],
) -> None:
    """Write weights, optimizer and `state`; every rank calls it.

    Nodes may share a disk or not: each disk gets what the ranks that write to it hold, and
    `trainer_state.json`. What several ranks hold is written once per disk that has it first.
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
    if _is_first_replica(topology) or not is_rank_0s_disk:
        save_optimizer(writing, optimizer_states, topology)
    save_weights(writing, model, config, topology, buckets, extras=extras)
    if is_first_of_node():
        _write_state(writing, state, topology.rank)
    collectives.barrier()
    if topology.rank == 0:
        mark.unlink()
    if topology.rank == 0 or (is_first_of_node() and not is_rank_0s_disk):
        publish(checkpoint, topology.rank)
    collectives.barrier()


def save_weights(
    directory: Path,
    model: nn.Layer,
    config: ModelConfig,
    topology: Topology,
    buckets: Sequence[Bucket],
    *,
    extras: list[Path],
) -> None:
    """Write the weights in Hugging Face's layout, each stage its own files; every rank calls it.

    Args:
        buckets: what the model's parameters are in.
        extras: files to put beside them, such as a tokenizer's.
    """
    dtype = str(model.parameters()[0].dtype).removeprefix("paddle.")
    tensors = whole_tensors(gathered_pieces(model, buckets), topology)
    written: dict[str, write_weights.WrittenTensor] = {}
    if _is_first_replica(topology) and topology.sharding_rank == topology.tensor_rank == 0:
        label = f"stage-{topology.pipeline_rank}" if topology.degrees.pipeline > 1 else ""
        arrays = ((name, values_of(tensor)) for name, tensor in tensors)
        written = write_weights.write_weight_files(
            arrays, config, directory, label=label, dtype=dtype
        )
    elif _is_first_replica(topology):
        deque(tensors, maxlen=0)  # takes its part in the gathering
    # Some have written much and some nothing: they meet before they talk again.
    collectives.barrier()
    stages = collectives.all_gather_text(json.dumps(written), topology.pipeline_group)
    if topology.rank == 0:
        everything = {
            name: write_weights.WrittenTensor(*entry)
            for stage in stages
            for name, entry in json.loads(stage).items()
        }
        write_weights.finish_weights(everything, config, directory, dtype=dtype)
        for path in extras:
            if path.resolve().parent != directory.resolve():
                part = directory / f"{path.name}.writing"
                shutil.copy2(path, part)
                os.replace(part, directory / path.name)
    collectives.barrier()


def _is_first_replica(topology: Topology) -> bool:
    """Whether this rank is the first of those that hold the same shard of the same weights."""
    return topology.data_rank == 0 and topology.sequence_rank == 0


def _write_state(directory: Path, state: dict[str, Any], rank: int) -> None:
    # Nodes that share the disk write the same text here, each in one move.
    part = directory / f"{STATE_FILE}.{rank}"
    part.write_text(json.dumps({"program": PROGRAM, **state}, indent=2))
    flush_file(part)
    os.replace(part, directory / STATE_FILE)
