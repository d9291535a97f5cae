"""One launch that trains every case in turn on a device, with the reference operators.

Usage: train_cases.py DEVICE CASES.json, a list of configurations. The device is cpu or emulated.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from llm_pretrain.config import load_run_config, resolve_degrees
from llm_pretrain.ops.native import library
from llm_pretrain.parallel.comm import gloo, topology
from llm_pretrain.training.failure import reported_failures
from llm_pretrain.training.run import model_config_of, train


def main(device: str, cases: list[str]) -> None:
    import paddle  # after llm_pretrain, whose settings must come first
    from paddle.distributed.fleet.base import topology as fleet_topology

    paddle.device.set_device(device)
    # The C++ operators are for the CPU; it is compared by what both have.
    library.find = lambda: (None, "left out")
    layout = None
    for path in cases:
        run = load_run_config(path)
        degrees = resolve_degrees(run.training, topology.world_size())
        if layout is None or layout.degrees != degrees:
            # A process meets the others, Fleet forms groups, and ours completes Gloo's, but once.
            fleet_topology._HYBRID_PARALLEL_GROUP = None
            layout = topology.initialize(degrees, order=run.training.hybrid_parallel_topo_order)
            gloo.install = topology.meet = lambda *_, **__: None
        with reported_failures():
            assert train(run, model_config_of(run), layout) == 0


if __name__ == "__main__":
    main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))
