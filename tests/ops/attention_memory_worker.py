"""Peak memory of attention, forward and backward, beyond its operands.

Usage: attention_memory_worker.py FILE, which gets {operator: {length: bytes}}.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

from llm_pretrain import ops
from llm_pretrain.ops.mask import Mask

LENGTHS = (2048, 4096)


def measure(name: str, length: int) -> int:
    import paddle
    from paddle.base import core

    operator = {"plain": ops.attention, "flash": ops.flash_attention}[name]
    q, k, v = (paddle.ones([1, length, heads, 32]) for heads in (2, 1, 1))
    for x in (q, k, v):
        x.stop_gradient = False
    gc.collect()
    before = core.host_memory_stat_current_value("Allocated", 0)
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    operator(q, k, v, Mask()).sum().backward()
    return core.host_memory_stat_peak_value("Allocated", 0) - before


if __name__ == "__main__":
    import paddle  # after llm_pretrain, whose settings must come first

    paddle.device.set_device("cpu")
    found = {name: {n: measure(name, n) for n in LENGTHS} for name in ("plain", "flash")}
    Path(sys.argv[1]).write_text(json.dumps(found))
