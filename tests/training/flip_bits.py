"""Trains while bits flip. Usage: flip_bits.py PLAN.json CONFIG.json.

The plan is a list of flips, each with the "step" and the "moment" in it at which it happens, one
whenever that comes; the "rank"; the "kind" of value; and where: "bucket" and "element" as shares of
what there is, and the "bit".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llm_pretrain.ops.bit_sum import bits_of
from llm_pretrain.parallel.sharding.replicas import held_values
from llm_pretrain.training.integrity import Integrity
from llm_pretrain.training.run import run
from llm_pretrain.training.saves import Saves
from llm_pretrain.training.trainer import Trainer

MOMENTS: dict[str, tuple[type, str]] = {
    "before the step": (Trainer, "step"),
    "before the meeting": (Integrity, "doubts"),
    "before the update": (Integrity, "before_update"),
    "after the step": (Integrity, "compare"),
    "when it is compared": (Saves, "save"),
}
"""The calls before which bits flip."""


def flip(integrity: Integrity, entry: dict[str, Any]) -> None:
    if integrity.topology.rank != entry["rank"]:
        return
    held = held_values(integrity.optimizer, gradients=integrity.optimizer.shards)
    # Masters of float32 that are weights are not held twice.
    kinds = {value.kind for value in held}
    kind = entry["kind"] if entry["kind"] in kinds else "weights"
    tensors = [value.tensor for value in held if value.kind == kind]
    bits = bits_of(tensors[int(entry["bucket"] * len(tensors))])
    bits[int(entry["element"] * len(bits))] ^= np.array(1 << entry["bit"]).astype(bits.dtype)


def plant(plan: list[dict[str, Any]]) -> None:
    now: dict[str, Any] = {}

    def before(moment: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(self, Trainer):
                now.update(step=self.progress.global_step, integrity=self.integrity)
            for entry in [*plan]:
                if entry["step"] == now["step"] and entry["moment"] == moment:
                    plan.remove(entry)
                    flip(now["integrity"], entry)
                    break
            return method(self, *arguments, **options)

        return call

    for moment, (owner, name) in MOMENTS.items():
        setattr(owner, name, before(moment, getattr(owner, name)))


if __name__ == "__main__":
    plant(json.loads(Path(sys.argv[1]).read_text()))
    sys.exit(run(sys.argv[2:]))
