"""A training step on two processes of one machine, here and by PyTorch's own layouts.

The model of 134 million parameters of `train_step.py`, the same tokens on one process with all
cores and on two with half of them each: data parallel, sharding stage 3 and tensor parallel at
2 × 512 tokens, beside DistributedDataParallel, FSDP2 and DTensor; two stages of a pipeline at
8 × 512 tokens, one sample at a time, beside torch.distributed.pipelining. The rounds are
interleaved.

    python benchmarks/layouts.py [--rounds 2] [--steps 3] [--layouts dp,pp] [--dtypes float32]
        [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from train_step import (
    SCRIPTS,
    SHAPES,
    WARM_UP,
    Shape,
    our_config,
    peer_python,
    processor,
    run,
)

from llm_pretrain import machine
from llm_pretrain.monitor.metrics_log import read_metrics

RANKS = 2


class Layout(NamedTuple):
    """A layout of two processes, and the batch that it is measured with."""

    title: str
    peer: str
    batch: int
    micro_batches: int
    sample_ranks: int
    """Processes with samples of their own."""
    options: dict[str, Any]


LAYOUTS = {
    "dp": Layout("data parallel", "DistributedDataParallel", 2, 1, RANKS, {}),
    "stage3": Layout("sharding stage 3", "FSDP2", 2, 1, RANKS, {"sharding": "stage3"}),
    "tp": Layout("tensor parallel", "DTensor", 2, 1, 1, {"tensor_parallel_degree": RANKS}),
    "pp": Layout(
        "pipeline, 8 micro-batches",
        "torch.distributed.pipelining",
        8,
        8,
        1,
        {"pipeline_parallel_degree": RANKS},
    ),
}


def measure_ours(
    layout: Layout, shape: Shape, ranks: int, dtype: str, steps: int, folder: Path
) -> list[float]:
    """Seconds of each counted step."""
    config = our_config(shape, dtype, steps, folder)
    per_device = layout.batch // layout.micro_batches
    if ranks > 1:
        config |= layout.options
        per_device //= layout.sample_ranks
    config["per_device_train_batch_size"] = per_device
    config["gradient_accumulation_steps"] = layout.micro_batches
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    launcher = ["-m", "llm_pretrain", "launch", "--nproc", str(ranks)]
    environment = machine.environment_without_choices()
    run([sys.executable, *launcher, path], environment, folder / "ours.txt")
    lines = [line for line in read_metrics(folder / "run") if line["kind"] == "step"]
    return [line["interval_runtime"] for line in lines[WARM_UP:]]


def measure_peer(
    layout: str, shape: Shape, ranks: int, dtype: str, steps: int, folder: Path
) -> list[float]:
    described, result = folder / "shape.json", folder / "result.json"
    batch = LAYOUTS[layout].batch
    micro_batches = LAYOUTS[layout].micro_batches
    given = {"batch": batch, "sequence": shape.sequence, "micro_batches": micro_batches}
    described.write_text(json.dumps(shape.published() | given))
    environment = dict(os.environ)
    environment.pop("PYTHONPATH", None)
    environment["OMP_NUM_THREADS"] = str(max(len(os.sched_getaffinity(0)) // ranks, 1))
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    words = [str(steps), str(result), dtype, layout if ranks > 1 else "alone"]
    program = [*launcher, str(SCRIPTS / "torch_layouts.py"), str(described)]
    run([peer_python("transformers"), *program, *words], environment, folder / "peer.txt")
    seconds: list[float] = json.loads(Path(f"{result}.0").read_text())["seconds"]
    return seconds[WARM_UP:]


class Case(NamedTuple):
    """What is timed: a program at the batch of a layout, in it or on one process."""

    program: str
    layout: str
    dtype: str
    ranks: int

    @property
    def work(self) -> tuple[Any, ...]:
        """What cases that need not be timed twice have in common."""
        batch = LAYOUTS[self.layout].batch, LAYOUTS[self.layout].micro_batches
        return self.program, self.dtype, self.ranks, self.layout if self.ranks > 1 else batch

    def measure(self, shape: Shape, steps: int, folder: Path) -> list[float]:
        if self.program == "PyTorch":
            return measure_peer(self.layout, shape, self.ranks, self.dtype, steps, folder)
        layout = LAYOUTS[self.layout]
        return measure_ours(layout, shape, self.ranks, self.dtype, steps, folder)


def table(layouts: list[str], dtypes: list[str], found: dict[Any, list[float]]) -> list[str]:
    """Medians, beside the lone process of the same program and beside the other program."""
    lines = [
        "| layout | dtype | llm_pretrain, s | of its lone process | beside it | s | of its lone "
        "process | llm_pretrain: speed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for layout in layouts:
        for dtype in dtypes:
            seconds = {
                (program, ranks): statistics.median(found[Case(program, layout, dtype, ranks).work])
                for program in ("llm_pretrain", "PyTorch")
                for ranks in (1, RANKS)
            }
            ours, theirs = seconds["llm_pretrain", RANKS], seconds["PyTorch", RANKS]
            lines.append(
                f"| {LAYOUTS[layout].title} | {dtype} | {ours:.3f} | "
                f"{ours / seconds['llm_pretrain', 1]:.2f} × | {LAYOUTS[layout].peer} | "
                f"{theirs:.3f} | {theirs / seconds['PyTorch', 1]:.2f} × | {theirs / ours:.2f} × |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2, help="runs of each case (default: 2)")
    parser.add_argument("--steps", type=int, default=3, help="counted steps of a run (default: 3)")
    parser.add_argument("--layouts", default=",".join(LAYOUTS))
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--shape", default="base", choices=SHAPES)
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    layouts, dtypes = given.layouts.split(","), given.dtypes.split(",")
    cases = {
        case.work: case
        for dtype in dtypes
        for layout in layouts
        for program in ("llm_pretrain", "PyTorch")
        for ranks in (1, RANKS)
        for case in [Case(program, layout, dtype, ranks)]
    }
    print(processor(), flush=True)
    found: dict[Any, list[float]] = {work: [] for work in cases}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.rounds):
            for work, case in cases.items():
                seconds = case.measure(SHAPES[given.shape], WARM_UP + given.steps, Path(folder))
                found[work] += seconds
                middle = statistics.median(seconds)
                where = case.layout if case.ranks > 1 else "one process"
                print(f"{case.program}, {where}, {case.dtype}: {middle:.3f} s", flush=True)
    print("\n".join(["", *table(layouts, dtypes, found)]))
    if given.json:
        figures = {" ".join(map(str, case)): found[work] for work, case in cases.items()}
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
