"""Collectives over Gloo on a 2 × 2 grid (pipeline × tensor); each rank writes what it got.

Usage: gloo_worker.py DIRECTORY SECONDS, where rank 1 comes SECONDS late to a barrier.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path

from llm_pretrain.config import Degrees
from llm_pretrain.machine.sockets import own_connections
from llm_pretrain.parallel.comm import collectives, topology


def main(directory: Path, late: float) -> None:
    import paddle  # after llm_pretrain, whose settings must come first

    paddle.device.set_device("cpu")
    here = topology.initialize(
        Degrees(data=1, sharding=1, tensor=2, pipeline=2, sep=1, context=1, virtual_pipeline=1)
    )
    group, rank = here.tensor_group, here.rank
    found: dict[str, object] = {"place": [here.pipeline_rank, here.tensor_rank]}
    for dtype in ("float32", "bfloat16", "float16"):
        values = paddle.to_tensor([1.0, -2.0, 3.0, 0.5]) * (here.tensor_rank + 1)
        summed = collectives.all_reduce(values.clone().astype(dtype), group)
        found[f"sum {dtype}"] = summed.astype("float32").tolist()
        part = paddle.zeros([2], dtype)
        collectives.reduce_scatter(part, values.astype(dtype), group)
        found[f"reduce_scatter {dtype}"] = part.astype("float32").tolist()
        gathered = collectives.all_gather(values.astype(dtype), group)
        found[f"all_gather {dtype}"] = gathered.astype("float32").tolist()
    exchanged = collectives.all_to_all(paddle.to_tensor([[rank, 10], [rank, 20]]), group)
    found["all_to_all"] = exchanged.tolist()
    at_once = [c.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for c in own_connections()]
    found["held back"] = [len(at_once) > 3, at_once.count(0)]
    # Two that are begun in one order on both ranks, and awaited in another.
    later, whole = paddle.to_tensor([1.0, 2.0]), paddle.zeros([4])
    tasks = [
        collectives.start_all_reduce(later, group),
        collectives.all_gather_into(whole, paddle.full([2], rank), group, asynchronous=True),
    ]
    collectives.all_reduce(paddle.ones([1]), group)
    for task in reversed(tasks):
        task.wait()
    found["asynchronous"] = [later.tolist(), whole.tolist()]
    # The two stages call in different orders: forward twice, then back, against the pairing.
    pipeline = here.pipeline_group
    other = pipeline.ranks[1 - here.pipeline_rank]
    message = paddle.to_tensor([float(rank)])
    if here.is_first_stage:
        tasks = [collectives.start_send(m, other, pipeline) for m in (message, message + 10)]
        received = [collectives.start_receive(paddle.zeros([1]), other, pipeline).wait()]
    else:
        received = [
            collectives.start_receive(paddle.zeros([1]), other, pipeline).wait() for _ in range(2)
        ]
        tasks = [collectives.start_send(message, other, pipeline)]
    for task in tasks:
        task.wait()
    found["received"] = [float(value) for value in received]
    found["texts"] = collectives.all_gather_text("é" * (rank + 1), pipeline)
    if rank == 1:
        time.sleep(late)
    collectives.barrier()
    (directory / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
