"""Faults within a rank, on demand: Python imports this file at its start, where it is on the path.

A file `rank-N.json` in $INJECTED_FAULTS is a fault of rank N at its next step: {"kind": "nan"}, a
gradient that is not a number, or {"kind": "flip", …}, a bit, as `tests/training/flip_bits.py` says.
Before each step it waits for $SECONDS_BEFORE_A_STEP.
"""

import importlib.abc
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

_TARGET = "llm_pretrain.training.trainer"


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname != _TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            _plant(module.Trainer)

        spec.loader.exec_module = exec_module
        return spec


def _plant(trainer) -> None:
    import paddle

    from llm_pretrain.parallel.sharding.buckets import Bucket

    step, accumulate = trainer.step, Bucket._accumulate
    armed = []

    def faulty_step(self, *arguments):
        time.sleep(float(os.environ.get("SECONDS_BEFORE_A_STEP", "0")))
        rank = self.topology.rank
        path = Path(os.environ["INJECTED_FAULTS"]) / f"rank-{rank}.json"
        if path.exists():
            entry = json.loads(path.read_text())
            path.unlink()
            if entry["kind"] == "nan":
                armed.append(True)
            else:
                # It imports what is being imported when this file is.
                from tests.training.flip_bits import flip

                flip(self.integrity, {**entry, "kind": entry["value"], "rank": rank})
        return step(self, *arguments)

    def faulty_accumulate(self, placement, gradient):
        if armed and gradient is not None and gradient._is_initialized():
            armed.clear()
            gradient.copy_(paddle.full_like(gradient, float("nan")), True)
        return accumulate(self, placement, gradient)

    trainer.step = faulty_step
    Bucket._accumulate = faulty_accumulate


if "INJECTED_FAULTS" in os.environ:
    sys.meta_path.insert(0, _Finder())
