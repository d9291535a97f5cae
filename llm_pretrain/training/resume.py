"""Where a run begins: at a checkpoint, or at step 0."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from paddle import Tensor

from llm_pretrain.checkpoint.checksums import DamagedCheckpointError
from llm_pretrain.checkpoint.directory import (
    checkpoints_in,
    no_whole_checkpoint,
    read_state,
    refusal_of_named,
    remove_unfinished,
    set_aside,
    step_of,
    whole_checkpoints,
)
from llm_pretrain.checkpoint.disks import is_first_of_node
from llm_pretrain.checkpoint.load import first_shards, load_optimizer
from llm_pretrain.config import ConfigError, RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.data import Sources
from llm_pretrain.parallel.comm import collectives
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.sharding.optimizer import ShardedAdamW
from llm_pretrain.training.agreement import bounds_over_ranks
from llm_pretrain.training.folders import Start, assert_same_model, find_start
from llm_pretrain.training.origin import origin_of
from llm_pretrain.training.reports import Reports
from llm_pretrain.training.sample_order import samples_in_order
from llm_pretrain.training.stage import first_values

Shards = list[dict[str, Tensor]]
"""Of the optimizer, bucket by bucket."""


class Loaded(NamedTuple):
    """What a checkpoint holds for this rank."""

    checkpoint: Path
    state: dict[str, Any]
    shards: Shards
    steps: int
    """Of the optimizer."""


def agree_on_start(run: RunConfig, model: ModelConfig, topology: Topology) -> Start:
    """Where all ranks begin, also where nodes have disks of their own.

    Raises:
        ConfigError: what is found can't be resumed, is of another model, or not on all nodes.
    """
    start = find_start(run)
    _assert_agreement(start, run, model, topology)
    return start


def _assert_agreement(start: Start, run: RunConfig, model: ModelConfig, topology: Topology) -> None:
    earliest, latest = bounds_over_ranks(start.step)
    if latest != earliest:
        found = start.checkpoints[0] if start.checkpoints else "no checkpoint"
        raise ConfigError(
            [
                f"rank {topology.rank} finds {found} in {run.training.output_dir}, but others "
                f"would start at step {latest} or {earliest}; copy the checkpoints to every node, "
                "or name one that all have in resume_from_checkpoint"
            ]
        )
    problem = ""
    if topology.rank == 0:
        try:
            assert_same_model(start, model)
        except ConfigError as error:
            problem = str(error)
    problem = collectives.gather_texts(problem)[0]
    if problem:
        raise ConfigError([problem])


def shared_origin(
    run: RunConfig, model: ModelConfig, topology: Topology, sources: Sources | None
) -> dict[str, Any]:
    """What makes this job's checkpoints; `sources` is what rank 0 has opened, None on others."""
    text = ""
    if sources is not None:
        text = json.dumps(origin_of(run, model, topology.world_size, sources))
    return dict(json.loads(collectives.gather_texts(text)[0]))


def samples_to_order(run: RunConfig, start: Start, topology: Topology, samples: int) -> int:
    """`samples_in_order` of what the run starts from, on all ranks what rank 0 finds."""
    if not start.checkpoints:
        return samples
    if topology.rank == 0:
        samples = samples_in_order(run, read_state(start.checkpoints[0]), samples)
    return int(collectives.gather_texts(str(samples))[0])


def load_newest(
    start: Start, run: RunConfig, model: ModelConfig, optimizer: ShardedAdamW, reports: Reports
) -> Loaded:
    """The newest checkpoint that no rank finds damaged; says which are.

    Raises:
        ConfigError: there is none, or the next one is of another model or not on all nodes.
    """
    damaged: list[str] = []
    for number, checkpoint in enumerate(start.checkpoints):
        if damaged:
            following = replace(
                start, checkpoints=start.checkpoints[number:], step=step_of(checkpoint)
            )
            _assert_agreement(following, run, model, optimizer.topology)
        loaded = load_unless_damaged(checkpoint, optimizer)
        if isinstance(loaded, Loaded):
            if damaged:
                step = loaded.state["progress"]["global_step"]
                reports.message(f"Training resumes at step {step} from {checkpoint} instead.")
            return loaded
        if isinstance(run.training.resume_from_checkpoint, str):
            raise ConfigError([refusal_of_named(checkpoint, loaded)])
        reports.message(f"{loaded}.")
        damaged.append(loaded)
    raise ConfigError([no_whole_checkpoint(run.training.output_dir, damaged)])


def load_newest_before(
    step: float,
    output_dir: str,
    went_on_from: Mapping[int, Path],
    optimizer: ShardedAdamW,
    reports: Reports,
) -> Loaded | None:
    """The newest checkpoint of an earlier step that all ranks have and none finds damaged, the same
    on all; None if there is none. Says which are damaged.

    Args:
        went_on_from: by its step, what the run has gone on from, for it may lie in another folder.
    """
    found = {step_of(path): path for path in whole_checkpoints(output_dir)} | dict(went_on_from)
    # Nodes may have disks of their own.
    texts = collectives.gather_texts(json.dumps([each for each in found if each < step]))
    common = set[int].intersection(*(set(json.loads(text)) for text in texts))
    for each in sorted(common, reverse=True):
        loaded = load_unless_damaged(found[each], optimizer)
        if isinstance(loaded, Loaded):
            return loaded
        reports.message(f"{loaded}.")
    return None


def load_unless_damaged(checkpoint: Path, optimizer: ShardedAdamW) -> Loaded | str:
    """A checkpoint, or what the first rank that finds it damaged says; the same on every rank."""
    problem, loaded = "", None
    try:
        state = read_state(checkpoint)
        shards, steps = load_optimizer(checkpoint, optimizer.buckets, optimizer.betas)
        loaded = Loaded(checkpoint, state, shards, steps)
    except DamagedCheckpointError as error:
        problem = str(error)
    problems = filter(None, collectives.gather_texts(problem))
    return next(problems, loaded or "")


def newest_state(
    run: RunConfig,
    model: ModelConfig,
    optimizer: ShardedAdamW,
    reports: Reports,
    beginning: Mapping[str, Any],
    went_on_from: Mapping[int, Path],
) -> tuple[Mapping[str, Any], Shards, int]:
    """The newest state that all ranks can go back to within a run, and its optimizer's steps.

    Args:
        beginning: of the run's first step, what a checkpoint would have of it besides weights and
            the optimizer's shards.
        went_on_from: as in `load_newest_before`.

    Raises:
        ConfigError: there is none: the checkpoint that the run began with has vanished.
    """
    output_dir = run.training.output_dir
    loaded = load_newest_before(math.inf, output_dir, went_on_from, optimizer, reports)
    if loaded is not None:
        # The samples of the first step are those that the run chose, not the checkpoint.
        is_first = loaded.checkpoint in went_on_from.values()
        return beginning if is_first else loaded.state, loaded.shards, loaded.steps
    if went_on_from:
        raise ConfigError([f"there is no checkpoint to go back to in {output_dir}"])
    return beginning, first_shards(optimizer.buckets, first_values(run, model)), 0


def set_aside_later(run: RunConfig, start: Start, step: int, reports: Reports) -> None:
    """Rename checkpoints of later steps than the run goes on from, which it will write anew.

    They are of an abandoned run, or damaged.
    """
    if not is_first_of_node():
        return
    remove_unfinished(run.training.output_dir)
    for path in checkpoints_in(run.training.output_dir):
        if step_of(path) > step:
            is_damaged = path in start.checkpoints or path in start.incomplete
            aside = set_aside(path, "damaged" if is_damaged else "abandoned")
            if aside:
                reports.message(f"A later checkpoint is set aside as {aside}.")
