"""Predicted memory and speed of other programs' runs, against what was published.

    python benchmarks/planning.py [CONFIG] --program paddlenlp|megatron|llm_foundry|llm_pretrain
                                  --gpu NAME --gpus N [--key value …] [--json]
    python benchmarks/planning.py [--fit]

With a program: one prediction, of a configuration in this project's keys. Without: every row of
`planning_published.csv`, written to `docs/planning_published.md`; `python -m tests.chinese_pages`
then writes the page in Chinese. `--fit` first finds the one
number of each cluster, the share of their rate that products keep, for `planning_clusters.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from peer_traces.clusters import fit_clusters, machine_of
from peer_traces.peer_run import read_run
from peer_traces.prediction import PROGRAMS, predict
from peer_traces.report import write_report

from llm_pretrain.config import ConfigError

OURS = "llm_pretrain"


def main(words: Sequence[str]) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", choices=(*PROGRAMS, OURS))
    parser.add_argument("--gpu", default="a100-80g")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--fit", action="store_true")
    known, rest = parser.parse_known_args(words)
    if known.program is None:
        if known.fit:
            fit_clusters()
        print(write_report())
        return 0
    try:
        content = _predict(known.program, rest, known.gpu, known.gpus)
    except ConfigError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return 1
    print(json.dumps(content, indent=2) if known.json else _lines(content))
    return 0


def _predict(program: str, words: Sequence[str], gpu: str, gpus: int) -> dict[str, Any]:
    if program == OURS:
        from peer_traces.ours import predict_ours

        return predict_ours(words, gpu, gpus).as_json()
    return predict(program, read_run(words, gpus), machine_of(program, gpu)).as_json()


def _lines(content: dict[str, Any]) -> str:
    return "\n".join(
        f"{key}: {' '.join(f'{part} {each}' for part, each in value.items())}"
        if isinstance(value, dict)
        else f"{key}: {value}"
        for key, value in content.items()
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
