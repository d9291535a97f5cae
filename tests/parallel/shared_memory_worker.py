"""Collectives through shared memory; each rank writes what was wrong.

Usage: shared_memory_worker.py DIRECTORY. At the end the last rank dies within a collective; the
others write the error that they get, and go when their input ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from llm_pretrain.config import Degrees
from llm_pretrain.parallel.comm import collectives, gloo, topology

SIZES = (0, 1, 5, 4096, 4097, 131_072, 400_001)
"""Around the bounds: of what every rank adds up alone, of a slot, of a message's box."""


def values(rank: int, size: int, dtype: str) -> np.ndarray:
    drawn = np.random.default_rng([rank, size]).standard_normal(size) * 100
    return drawn.astype(dtype)


def main(directory: Path) -> None:
    import paddle  # after llm_pretrain, whose settings must come first

    paddle.device.set_device("cpu")
    count = int(os.environ["PADDLE_TRAINERS_NUM"])
    here = topology.initialize(
        Degrees(data=1, sharding=1, tensor=count, pipeline=1, sep=1, context=1, virtual_pipeline=1)
    )
    group, rank = here.tensor_group, here.rank
    wrong: list[str] = []

    def expect(what: str, found: Any, expected: np.ndarray) -> None:
        array = found.astype("float32").numpy() if found.dtype == paddle.bfloat16 else found.numpy()
        if not np.array_equal(array, expected):
            wrong.append(what)

    assert gloo._operations is not None
    if not gloo._operations.groups.shared:
        wrong.append("no memory is shared")
    for size in SIZES:
        for dtype in ("float32", "float64", "int32", "int64"):
            everyone = [values(other, size, dtype) for other in range(count)]
            total = everyone[0].copy()
            for other in everyone[1:]:
                total += other
            own = paddle.to_tensor(everyone[rank])
            expect(f"sum {dtype} {size}", collectives.all_reduce(own.clone(), group), total)
            largest = collectives.all_reduce(own.clone(), group, "max")
            expect(f"max {dtype} {size}", largest, np.max(everyone, axis=0))
            if size:
                gathered = collectives.all_gather(own, group)
                expect(f"gather {dtype} {size}", gathered, np.concatenate(everyone))
            whole = np.concatenate([values(rank + 10 * part, size, dtype) for part in range(count)])
            part, whole_tensor = paddle.zeros([size], dtype), paddle.to_tensor(whole)
            collectives.reduce_scatter(part, whole_tensor, group).wait()
            mine = [values(other + 10 * rank, size, dtype) for other in range(count)]
            total = mine[0].copy()
            for other in mine[1:]:
                total += other
            expect(f"scatter {dtype} {size}", part, total)
        given = paddle.to_tensor(values(rank, size, "float32"))
        collectives.broadcast(given, count - 1, group)
        expect(f"broadcast {size}", given, values(count - 1, size, "float32"))
        ahead, behind = (rank + 1) % count, (rank - 1) % count
        task = collectives.start_send(paddle.to_tensor(values(rank, size, "float32")), ahead, group)
        coming = collectives.start_receive(paddle.zeros([size]), behind, group)
        expect(f"message {size}", coming.wait(), values(behind, size, "float32"))
        task.wait()
    rounded = paddle.to_tensor([1.0, 2.0**-8, 3.0]).astype("bfloat16")
    total = np.array([count, count * 2.0**-8, count * 3.0], np.float32)
    expect("bfloat16", collectives.all_reduce(rounded, group), total)
    bad = paddle.to_tensor([float("nan") if rank == 1 else 1.0])
    if not np.isnan(float(collectives.all_reduce(bad, group, "max"))):
        wrong.append("a number that is none is lost")
    (directory / f"{rank}.json").write_text(json.dumps(wrong))
    collectives.barrier()
    if rank == count - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        collectives.all_reduce(paddle.ones([4]), group)
    except RuntimeError as error:
        unfinished = directory / f"{rank}.unfinished"
        unfinished.write_text(str(error))
        unfinished.rename(directory / f"{rank}.error")
        sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
