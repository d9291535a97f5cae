"""Ranks that are slow: each one's own time in a step, told to all with what they agree on anyway.

A rank's own time is what it did not wait for others. It goes along with the numbers that all ranks
read together once in a step, a place for each rank, so that nobody waits for it. On an accelerator
it is the host's own time, which shows a slow host, not a slow device.
"""

from __future__ import annotations

import os
from statistics import median_low

import numpy as np
from paddle import Tensor

from llm_pretrain.config import TrainingArguments
from llm_pretrain.machine.device import to_device
from llm_pretrain.machine.launchers import hosts_of_ranks
from llm_pretrain.parallel.comm import progress
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.training.reports import Reports


class Stragglers:
    """Counts for each rank the steps in a row in which it was slow."""

    def __init__(self, training: TrainingArguments, topology: Topology, reports: Reports) -> None:
        self.threshold = training.straggler_threshold
        self.steps = training.straggler_steps
        self.topology = topology
        self.reports = reports
        self.slow = [0] * topology.world_size

    def own_time(self) -> Tensor:
        """This rank's seconds in the step before, at its place, float32 [ranks]."""
        seconds = np.zeros(self.topology.world_size, np.float32)
        seconds[self.topology.rank] = progress.own_seconds()
        return to_device(seconds)

    def note(self, step: int, seconds: list[float]) -> None:
        """Take up all ranks' times in the step before this one, and warn of those that are slow."""
        if len(seconds) == 1:
            return
        usual = median_low(seconds)
        for rank, own in enumerate(seconds):
            self.slow[rank] = self.slow[rank] + 1 if own > self.threshold * usual > 0 else 0
            if self.slow[rank] == self.steps:
                self._warn(step, rank, own, usual)
        slowest = max(seconds)
        self.reports.of_ranks = {
            "slowest_rank": seconds.index(slowest),
            "slowest_rank_seconds": slowest,
            "median_rank_seconds": usual,
            "waiting_share": progress.waiting_share(),
        }

    def _warn(self, step: int, rank: int, own: float, usual: float) -> None:
        host = _host_of(rank)
        self.reports.event(
            "straggler",
            f"warning: rank {rank} on {host} is slow: for {self.steps} steps it has computed for "
            f"more than {self.threshold:g} times as long as the median of the ranks ({own:.3g} s "
            f"and {usual:.3g} s in step {step - 1}). The others wait for it.",
            global_step=step,
            rank=rank,
            rank_host=host,
            seconds=own,
            median_seconds=usual,
        )


def _host_of(rank: int) -> str:
    hosts = hosts_of_ranks(os.environ)
    return hosts[rank] if rank < len(hosts) else "an unknown host"
