"""An all-reduce among processes of this machine, through shared memory and over Gloo.

    python benchmarks/collectives.py [--processes 2 4 8]

Prints the median seconds of an all-reduce of float32 values by size and by the number of processes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

SIZES = (64, 16 << 10, 1 << 20, 16 << 20)
"""Bytes."""
ROUNDS = 50
QUIET = {"GLOG_minloglevel": "1", "PYTHONWARNINGS": "ignore"}


def measure(way: str) -> None:
    import paddle

    from llm_pretrain.config import Degrees
    from llm_pretrain.parallel.comm import collectives, shared_memory, topology

    paddle.device.set_device("cpu")
    if way == "Gloo":
        shared_memory.join = lambda *_: None
    ranks = topology.world_size()
    here = topology.initialize(
        Degrees(data=1, sharding=1, tensor=ranks, pipeline=1, sep=1, context=1, virtual_pipeline=1)
    )
    for size in SIZES:
        values = paddle.zeros([size // 4])
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            collectives.all_reduce(values, here.tensor_group)
            times.append(time.perf_counter() - began)
        if here.rank == 0:
            seconds = statistics.median(times[ROUNDS // 10 :])
            print(f"{ranks:9}  {way:13}  {size:10,}  {seconds * 1e3:9.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4, 8])
    print(f"{'processes':9}  {'through':13}  {'bytes':>10}  {'ms':>9}")
    for processes in parser.parse_args().processes:
        for way in ("shared memory", "Gloo"):
            launcher = ["-m", "paddle.distributed.launch", "--log_level", "ERROR"]
            subprocess.run(
                [*(sys.executable, *launcher, "--nproc_per_node", str(processes)), __file__, way],
                env={**os.environ, "OMP_NUM_THREADS": "1", **QUIET},
                check=True,
            )


if __name__ == "__main__":
    measure(sys.argv[1]) if "PADDLE_TRAINER_ID" in os.environ else main()
