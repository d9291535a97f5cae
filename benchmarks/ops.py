"""The operators of a training step on CPU: here, in PyTorch, and what the machine could do.

Both programs run side by side, each in its own environment (`make peers`), with the same threads,
and take turns at every operator; medians count. The share of the roofline is the time that the
least work takes at the speed of a large product here, or at that of reading and writing an
array of about as many bytes, whichever is longer, over the operator's own.

    python benchmarks/ops.py [--rounds 3] [--sizes base] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from ops_work import BYTES, SIZES, Sizes, dtypes, works
from train_step import peer_python, processor

from llm_pretrain import machine

FOLDER = Path(__file__).resolve().parent
# For less than this a program's threads keep the cores busy after their last work.
SPIN_SECONDS = 0.3
HEADER = """
| operator | dtype | pass | llm_pretrain, ms | PyTorch, ms | llm_pretrain: speed | of the roofline |
|---|---|---|---|---|---|---|"""


class Program:
    """One of the two, waiting for operators to measure."""

    def __init__(self, python: Path, script: str, sizes: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        if python == Path(sys.executable):
            environment["PYTHONPATH"] = str(FOLDER.parent)
        self.script = script
        self.process = subprocess.Popen(
            [str(python), str(FOLDER / script), sizes],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self, operator: str, dtype: str) -> dict[str, list[float]]:
        """By pass, the seconds of every run."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps([operator, dtype]), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise SystemExit(f"{self.script} ended with status {self.process.wait()}; see above")
        time.sleep(SPIN_SECONDS)
        return json.loads(answer)

    def best(self, operator: str, dtype: str, rounds: int) -> float:
        """Seconds of the fastest run of the only pass."""
        answers = (self.measure(operator, dtype) for _ in range(rounds))
        return min(second for answer in answers for runs in answer.values() for second in runs)


class Line(NamedTuple):
    """One pass of one operator: seconds of all runs, and those of the roofline."""

    operator: str
    dtype: str
    name: str
    ours: list[float]
    theirs: list[float]
    least: float

    def __str__(self) -> str:
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        return (
            f"| {self.operator} | {self.dtype} | {self.name} | {ours * 1e3:.2f} | "
            f"{theirs * 1e3:.2f} | {theirs / ours:.2f} × | {self.least / ours:.0%} |"
        )


class Bench:
    """Both programs, and what the machine can do, which is the best of all rounds.

    Attributes:
        speeds: FLOP/s of large products by the program, by dtype.
        bandwidths: bytes/s of scaling an array in place, by its bytes.
    """

    def __init__(self, sizes: str, rounds: int) -> None:
        self.sizes: Sizes = SIZES[sizes]
        self.rounds = rounds
        self.ours = Program(Path(sys.executable), "ops_ours.py", sizes)
        self.theirs = Program(peer_python("transformers"), "ops_torch.py", sizes)
        flops = 2 * self.sizes.square**3
        self.speeds = {dtype: flops / self.ours.best("product", dtype, rounds) for dtype in BYTES}
        self.bandwidths = {
            size: 2 * size / self.theirs.best(name, "float32", rounds)
            for name, size in self.sizes.scalings.items()
        }

    def ceilings(self) -> str:
        speeds = [f"{speed / 1e9:.0f} GFLOP/s {dtype}" for dtype, speed in self.speeds.items()]
        memory = [
            f"{it / 1e9:.1f} GB/s of {size >> 20} MiB" for size, it in self.bandwidths.items()
        ]
        return f"A product of large matrices: {', '.join(speeds)}; memory: {', '.join(memory)}"

    def compare(self, operator: str, dtype: str) -> list[Line]:
        """A line for every pass."""
        turns = [
            (self.ours.measure(operator, dtype), self.theirs.measure(operator, dtype))
            for _ in range(self.rounds)
        ]
        return [
            Line(
                operator,
                dtype,
                name,
                [second for ours, _ in turns for second in ours[name]],
                [second for _, theirs in turns for second in theirs[name]],
                work.least_seconds(dtype, self.speeds[dtype], self.bandwidths),
            )
            for name, work in works(self.sizes)[operator].items()
        ]

    def end(self) -> None:
        for program in (self.ours, self.theirs):
            program.process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: 3)")
    parser.add_argument("--sizes", choices=list(SIZES), default="base", help="(default: base)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    if not peer_python("transformers").exists():
        raise SystemExit(f"{peer_python('transformers')}, for PyTorch, is missing (make peers)")
    settings = ", ".join(f"{choice.name}={choice.value}" for choice in machine.choices())
    print(f"{processor()}; {settings}", flush=True)
    bench = Bench(arguments.sizes, arguments.rounds)
    print(bench.ceilings(), HEADER, sep="\n", flush=True)
    lines: list[Line] = []
    for operator in works(bench.sizes):
        for dtype in dtypes(operator):
            compared = bench.compare(operator, dtype)
            print(*compared, sep="\n", flush=True)
            lines += compared
    bench.end()
    if arguments.json:
        figures = {
            "processor": processor(),
            "settings": settings,
            "flops_per_second": bench.speeds,
            "bytes_per_second": bench.bandwidths,
            "operators": [line._asdict() for line in lines],
        }
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
