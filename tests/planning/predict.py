"""Predicts the memory of every rank of some configurations: `predict.py CASES.json OUT.json`.

A process of its own, since what trains can't trace. The cases are pairs of a configuration's path
and a number of processes, and whether the references serve.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from llm_pretrain.config import load_run_config, resolve_degrees
from llm_pretrain.planning import program
from llm_pretrain.planning.memory import fullest, steps_begin
from llm_pretrain.training.preflight import model_config_of


def predicted(path: str, processes: int, *, by_references: bool) -> list[dict[str, Any]]:
    """Of every rank the bytes at its fullest during two steps, and their parts."""
    run = load_run_config(path)
    degrees = resolve_degrees(run.training, processes)
    model = model_config_of(run)
    found = []
    for rank in range(processes):
        trace = program.trace_step(
            run, model, degrees, rank, device="cpu", by_references=by_references
        )
        memory = fullest(trace, begin=steps_begin(trace))
        found.append({"bytes": memory.bytes, "parts": memory.parts, "moment": str(memory.moment)})
    return found


def main(cases: Path, out: Path) -> None:
    out.write_text(
        json.dumps(
            {
                path: predicted(path, processes, by_references=by_references)
                for path, processes, by_references in json.loads(cases.read_text())
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
