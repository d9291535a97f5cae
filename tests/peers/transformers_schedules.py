"""Run by the Python of transformers: learning rates of its schedules, as JSON on stdout.

The argument is a JSON list of [name, arguments, steps]; answered by the list of the rates of the
steps 1 to `steps` for a highest rate of 1.
"""

from __future__ import annotations

import json
import sys

import torch
from transformers import optimization


def rates(name: str, arguments: dict[str, object], steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = getattr(optimization, name)(optimizer, **arguments)
    return [schedule.lr_lambdas[0](step) for step in range(1, steps + 1)]


print(json.dumps([rates(*case) for case in json.loads(sys.argv[1])]))
