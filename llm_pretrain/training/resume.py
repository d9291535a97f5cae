"""Where a run begins: at a checkpoint, or at step 0."""

from __future__ import annotations

from pathlib import Path

from llm_pretrain.checkpoint.directory import remove_unfinished, set_aside_later
from llm_pretrain.checkpoint.save import is_first_of_node
from llm_pretrain.config import ConfigError, RunConfig
from llm_pretrain.parallel.topology import Topology
from llm_pretrain.training.agreement import bounds_over_ranks
from llm_pretrain.training.folders import Start, find_start
from llm_pretrain.training.reports import Reports


def choose_checkpoint(run: RunConfig, topology: Topology, reports: Reports) -> Path | None:
    """The checkpoint that all ranks resume from, or None; says which and why.

    Checkpoints of later steps are set aside: the run will write those steps anew.

    Raises:
        ConfigError: what is found can't be resumed, or not on all nodes.
    """
    start = find_start(run)
    _assert_agreement(start, run, topology)
    reports.message(str(start))
    if run.training.do_train and is_first_of_node():
        remove_unfinished(run.training.output_dir)
        for path in set_aside_later(run.training.output_dir, start.step):
            reports.message(f"A later checkpoint of an earlier run is set aside as {path}.")
    return start.checkpoint


def _assert_agreement(start: Start, run: RunConfig, topology: Topology) -> None:
    """All ranks must have found the same step, also where nodes have disks of their own."""
    earliest, latest = bounds_over_ranks(start.step)
    if latest != earliest:
        found = start.checkpoint or "no checkpoint"
        raise ConfigError(
            [
                f"rank {topology.rank} finds {found} in {run.training.output_dir}, but others "
                f"would start at step {latest} or {earliest}; copy the checkpoints to every node, "
                "or name one that all have in resume_from_checkpoint"
            ]
        )
