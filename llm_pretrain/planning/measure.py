"""What this machine's processors do: products, memory, attention, and messages over Gloo.

Run as a program, `measure.py [PROCESSES]`, it prints a machine's content, as `machines.py` reads
it, in its last line: what one of so many processes does while the others do the same, since they
share memory. It takes some seconds, and needs Paddle, which a process that plans may not have.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from llm_pretrain.machine import environment_without_choices

_SOURCE = "measured on this machine by llm_pretrain/planning/measure.py"
_NO_DEVICE = "a processor has no device of its own"
_NO_TILES = "products on a processor are not cut into tiles: their efficiency is measured by size"
_BESIDE = "beside"
_ROUNDS = 3
_SIDES = (64, 192, 512, 1024)
"""Of the square matrices that are multiplied."""
_SIZES = (1 << 16, 1 << 20, 1 << 24, 1 << 26)
"""Bytes that are read, and as many written."""
_WIDTH = 512
"""Of the rows that are normalised."""
_UNCACHED = 1 << 26
_MOST = 256
_MESSAGES = (4, 1 << 24)
"""Bytes that two processes sum."""
_HEADS, _LENGTH, _HEAD_SIZE = 8, 1024, 64


def _many(size: int) -> int:
    """How many pieces of so many bytes no cache holds, as none holds what a step goes through."""
    return min(max(_UNCACHED // size, 2), _MOST)


def _in_turn(work: Callable[..., Any], operands: Sequence[tuple[Any, ...]]) -> None:
    for each in operands:
        work(*each)


def seconds_of(work: Callable[[], Any], operands: Sequence[object] = (None,)) -> float:
    """The median of some rounds, after one that warms up, for each of the operands."""
    work()
    found = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return median(found) / len(operands)


def measured(processes: int) -> dict[str, Any]:
    """The content of this machine's file, as one of so many processes finds it."""
    command = [sys.executable, "-m", "llm_pretrain.planning.measure", _BESIDE]
    others = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment_without_choices())
        for _ in range(processes - 1)
    ]
    try:
        content = rates()
    finally:
        for other in others:
            other.kill()
            other.wait()
    step, link = _messages()
    for kind in ("node", "network"):
        content[f"{kind}_bandwidth"] = {"value": link, "source": _SOURCE}
        content[f"{kind}_step_seconds"] = {"value": step, "source": _SOURCE}
    return content


def rates() -> dict[str, Any]:
    """Of this process: all but messages."""
    import paddle

    paddle.set_device("cpu")
    tables = {dtype: _products(dtype) for dtype in ("float32", "bfloat16")}
    peaks = {dtype: max(rate for _, rate in table) for dtype, table in tables.items()}
    copies = [(2.0 * size, _memory_rate(size)) for size in _SIZES]
    bandwidth = max(rate for _, rate in copies)
    forward, backward = _attention()
    tiny = paddle.ones([1])
    numbers = {
        "sustained": 1.0,
        "kernel_seconds": seconds_of(lambda: tiny + tiny),
        "attention_forward": forward / peaks["float32"],
        "attention_backward": backward / peaks["float32"],
        "memory": float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        "memory_bandwidth": bandwidth,
        "host_bandwidth": bandwidth,
        "devices_per_node": float(os.cpu_count() or 1),
    }
    content: dict[str, Any] = {
        key: {"value": value, "source": _SOURCE} for key, value in numbers.items()
    }
    content |= {key: {"value": 0, "source": _NO_DEVICE} for key in ("context", "group_buffers")}
    content["processors"] = {"value": 1, "source": _NO_TILES}
    content["tile_seconds"] = {"value": 0, "source": _NO_TILES}
    shares = [[flops, rate / peaks["float32"]] for flops, rate in tables["float32"]]
    content["product_efficiency"] = {"value": shares, "source": _SOURCE}
    shares = [[size, rate / bandwidth] for size, rate in copies]
    content["memory_efficiency"] = {"value": shares, "source": _SOURCE}
    content["peaks"] = {dtype: {"value": peak, "source": _SOURCE} for dtype, peak in peaks.items()}
    return {"description": f"this machine, {os.cpu_count()} processors", "kind": "cpu", **content}


def _products(dtype: str) -> list[tuple[float, float]]:
    """(operations, operations a second) of products of square matrices."""
    import paddle

    from llm_pretrain import ops
    from llm_pretrain.ops.dispatch import choose
    from llm_pretrain.ops.operator import set_compute_dtype

    set_compute_dtype(dtype)
    choose({}, dtype)
    table = []
    for side in _SIDES:

        def matrix(side: int = side) -> Any:
            found = paddle.ones([side, side]).astype(dtype)
            found.stop_gradient = False
            return found

        def products(x: Any, weight: Any) -> None:
            y = ops.linear(x, weight)
            paddle.autograd.backward([y], [y.detach()])
            x.clear_gradient(False)
            weight.clear_gradient(False)

        pairs = [(matrix(), matrix()) for _ in range(_many(4 * side * side))]
        flops = 2.0 * side**3
        # One forward and two backward.
        table.append((flops, 3.0 * flops / seconds_of(partial(_in_turn, products, pairs), pairs)))
    return table


def _memory_rate(size: int) -> float:
    """Bytes read and written a second by an operator that computes little, of so many bytes."""
    import paddle

    from llm_pretrain import ops

    weight = paddle.ones([_WIDTH])
    tensors = [(paddle.ones([size // 4 // _WIDTH, _WIDTH]),) for _ in range(_many(size))]
    work = partial(_in_turn, lambda x: ops.rms_norm(x, weight, 1e-5), tensors)
    return 2.0 * size / seconds_of(work, tensors)


def _attention() -> tuple[float, float]:
    """Operations a second of causal attention in float32, forward and backward."""
    import paddle

    from llm_pretrain import ops
    from llm_pretrain.ops.dispatch import choose
    from llm_pretrain.ops.mask import Mask
    from llm_pretrain.ops.operator import set_compute_dtype

    set_compute_dtype("float32")
    choose({}, "float32")
    shape = [1, _LENGTH, _HEADS, _HEAD_SIZE]
    q, k, v = (paddle.ones(shape) for _ in range(3))
    for x in (q, k, v):
        x.stop_gradient = False

    def forward() -> Any:
        return ops.flash_attention(q, k, v, Mask())

    def both() -> None:
        forward().sum().backward()

    # Half of the scores are masked.
    one_product = _HEADS * _LENGTH * _LENGTH * _HEAD_SIZE
    there = seconds_of(forward)
    back = max(seconds_of(both) - there, 1e-9)
    return 2.0 * one_product / there, 5.0 * one_product / back


def _messages() -> tuple[float, float]:
    """Seconds of a step of a collective over Gloo, and its bytes a second, of two processes."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", folder]
        # The script stands in the package's folder, whose modules must not hide others.
        script = Path(folder) / "measure_messages.py"
        script.write_text(
            "from llm_pretrain.planning.measure import measure_messages\n"
            f"measure_messages({str(found)!r})\n"
        )
        root = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        subprocess.run(
            [sys.executable, *launch, str(script)],
            env={**environment_without_choices(), "PYTHONPATH": paths},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        small, large = json.loads(found.read_text())
    # Two steps of a ring of two move as many bytes as are summed.
    return small / 2, _MESSAGES[1] / max(large - small, 1e-9)


def measure_messages(path: str) -> None:
    """As one of two processes: write the seconds of an all-reduce of each size."""
    import paddle

    from llm_pretrain.config import Degrees
    from llm_pretrain.parallel.comm import collectives, topology

    paddle.device.set_device("cpu")
    here = topology.initialize(Degrees(1, 1, 2, 1, 1, 1, 1))
    found = []
    for size in _MESSAGES:
        x = paddle.ones([max(size // 4, 1)])
        group = here.tensor_group
        found.append(seconds_of(partial(collectives.all_reduce, x, group)))
    if here.rank == 0:
        Path(path).write_text(json.dumps(found))


def main(words: list[str]) -> None:
    """Print the content, or only be at work beside the process that does."""
    if words == [_BESIDE]:
        rates()
        return
    content = measured(int(words[0]) if words else 1)
    assert all(math.isfinite(content[key]["value"]) for key in ("kernel_seconds", "memory"))
    print(json.dumps(content))


if __name__ == "__main__":
    main(sys.argv[1:])
