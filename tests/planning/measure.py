"""Trains configurations one after another and says how much memory Paddle's allocator counted.

Usage, under the launcher or alone: measure.py CASES.json DIRECTORY. The cases are triples of a
configuration's path, a number of processes, and whether the references serve. Each rank writes
rank-N.json: by path the bytes at the fullest moment of the steps, beyond those before the run.
"""

from __future__ import annotations

import gc
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from llm_pretrain.config import load_run_config, resolve_degrees
from llm_pretrain.models import position
from llm_pretrain.ops import mask
from llm_pretrain.ops.native import library
from llm_pretrain.parallel.comm import gloo, topology
from llm_pretrain.training import run as training_run
from llm_pretrain.training.trainer import Trainer


class Peak:
    """Paddle's count of its CPU tensors, over the steps of a training."""

    def __init__(self) -> None:
        from paddle.base import core

        self.core = core
        self.bytes = 0
        self.step = Trainer.step

    def current(self) -> int:
        return int(self.core.host_memory_stat_current_value("Allocated", 0))

    def watch(self) -> None:
        """Count from the first step to the end of the last."""
        self.bytes = 0
        is_first = True

        def step(trainer: Trainer, *arguments: Any) -> Any:
            nonlocal is_first
            if is_first:
                mask._future.cache_clear()  # of the operators' self-tests
                self.core.host_memory_stat_reset_peak_value("Allocated", 0)
            is_first = False
            result = self.step(trainer, *arguments)
            self.bytes = int(self.core.host_memory_stat_peak_value("Allocated", 0))
            return result

        Trainer.step = step  # type: ignore[method-assign]


def main(cases: list[tuple[str, int, bool]], out: Path) -> None:
    import paddle
    from paddle.distributed.fleet.base import topology as fleet_topology

    paddle.device.set_device("cpu")
    # Blocks of the operators' own are not in Paddle's count.
    library._LEAST = 1 << 62
    found, here, peak, find = {}, None, Peak(), library.find
    for path, _, by_references in cases:
        library.find = (lambda: (None, "left out")) if by_references else find
        run = load_run_config(path)
        degrees = resolve_degrees(run.training, topology.world_size())
        if here is None or here.degrees != degrees:
            fleet_topology._HYBRID_PARALLEL_GROUP = None
            here = topology.initialize(degrees, order=run.training.hybrid_parallel_topo_order)
            gloo.install = lambda *_, **__: None
            topology.met = lambda *_, **__: nullcontext()
        position._tables.cache_clear()
        mask._future.cache_clear()
        gc.collect()
        before = peak.current()
        peak.watch()
        assert training_run.train(run, training_run.model_config_of(run), here) == 0
        found[path] = peak.bytes - before
    (out / f"rank-{here.rank if here else 0}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
