"""Trains each case for two steps and writes what every group carried in the second.

Usage: traffic_worker.py CASES.json OUTPUT, a list of configurations of equal degrees.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_pretrain.config import load_run_config, resolve_degrees
from llm_pretrain.parallel.comm import topology
from llm_pretrain.training.run import model_config_of, train
from llm_pretrain.training.trainer import Trainer

GROUPS = ("data", "sharding", "sequence", "replica", "pipeline", "tensor", "tied_embedding")
# The argument that holds the bytes which the formula of each operation is about.
SIZED_BY = {
    "all_reduce": 0,
    "reduce_scatter_tensor": 1,
    "all_gather_into_tensor": 0,
    "broadcast": 0,
    "all_to_all_single": 1,
    "send": 0,
}
SMALLEST = 1024
"""Bytes below which a message is a loss, a norm or the like and not counted."""


class Traffic:
    """Bytes of every operation, by group and kind."""

    def __init__(self, here: topology.Topology) -> None:
        self.bytes: Counter[str] = Counter()
        self.names: dict[int, str] = {}
        for name in GROUPS:
            group = getattr(here, f"{name}_group")
            if group is not None:
                self.names.setdefault(id(group.process_group), name)
        for group in here.message_groups.values():
            self.names.setdefault(id(group.process_group), "pipeline")

    def counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(group: Any, *arguments: Any) -> Any:
            tensor = arguments[SIZED_BY[name]]
            size = tensor.size * tensor.element_size()
            if size >= SMALLEST:
                self.bytes[f"{self.names.get(id(group), 'world')} {name}"] += size
            return method(group, *arguments)

        return call

    def install(self) -> None:
        from paddle.base import core

        for name in SIZED_BY:
            method = getattr(core.ProcessGroupGloo, name)
            setattr(core.ProcessGroupGloo, name, self.counted(name, method))


def main(cases: list[str], output: Path) -> None:
    import paddle  # after llm_pretrain, whose settings must come first

    paddle.device.set_device("cpu")
    runs = [load_run_config(path) for path in cases]
    here = topology.initialize(resolve_degrees(runs[0].training, topology.world_size()))
    traffic = Traffic(here)
    traffic.install()
    step = Trainer.step

    def counting_step(trainer: Trainer, *arguments: Any) -> Any:
        traffic.bytes.clear()
        return step(trainer, *arguments)

    Trainer.step = counting_step  # type: ignore[method-assign]
    found = []
    for run in runs:
        save = Trainer.save_model
        Trainer.save_model = lambda trainer: found.append(dict(traffic.bytes))  # type: ignore
        assert train(run, model_config_of(run), here) == 0
        Trainer.save_model = save  # type: ignore[method-assign]
    (output / f"{here.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
