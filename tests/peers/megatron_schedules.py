"""Run by the Python of Megatron: learning rates of its scheduler, as JSON on stdout.

The argument is a JSON list of [arguments, steps]; answered by the lists of the rates that it has
after the steps 1 to `steps`, which its log shows, with that before the first in front.
"""

from __future__ import annotations

import json
import sys

import torch
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler


def rates(arguments: dict[str, object], steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    decay = {"start_wd": 0.0, "end_wd": 0.0, "wd_incr_steps": 1, "wd_incr_style": "constant"}
    scheduler = OptimizerParamScheduler(optimizer, init_lr=0.0, **decay, **arguments)
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        scheduler.step(1)
        found.append(optimizer.param_groups[0]["lr"])
    return found


print(json.dumps([rates(*case) for case in json.loads(sys.argv[1])]))
