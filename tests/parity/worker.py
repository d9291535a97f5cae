"""One launch that trains every case in turn.

Usage: worker.py CASES.json [DEVICE]. The cases are a list of configurations; groups are formed anew
where degrees change. Where a device is named the references serve, which every device has.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path

from llm_pretrain.config import load_run_config, resolve_degrees
from llm_pretrain.ops.native import library
from llm_pretrain.parallel.comm import gloo, topology
from llm_pretrain.training.failure import reported_failures
from llm_pretrain.training.run import model_config_of, train


def main(cases: list[str], device: str | None) -> None:
    import paddle  # after llm_pretrain, whose settings must come first
    from paddle.distributed.fleet.base import topology as fleet_topology

    paddle.device.set_device(device or "cpu")
    if device is not None:
        library.find = lambda: (None, "left out")
    here = None
    for path in cases:
        run = load_run_config(path)
        degrees = resolve_degrees(run.training, topology.world_size())
        if here is None or here.degrees != degrees:
            # A process meets the others, Fleet forms groups, and ours completes Gloo's, but once.
            fleet_topology._HYBRID_PARALLEL_GROUP = None
            here = topology.initialize(degrees, order=run.training.hybrid_parallel_topo_order)
            gloo.install = lambda *_, **__: None
            topology.met = lambda *_, **__: nullcontext()
        with reported_failures():
            assert train(run, model_config_of(run), here) == 0


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), next(iter(sys.argv[2:]), None))
