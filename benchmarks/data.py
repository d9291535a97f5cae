"""Preprocessing, building the index, and reading samples: here, in PaddleNLP and in Megatron.

Each program runs in its own environment (`make peers`), in a process of its own and on one core;
the rounds are interleaved. Every round of preprocessing has another piece of the text. A program
that isn't installed is left out with a line that says so.

    python benchmarks/data.py [reading] [index] [preprocessing] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from data_text import chinese, english, train_tokenizer, write_pieces
from train_step import peer_python, processor

from llm_pretrain.data.indexed_dataset import bin_path, index_path
from llm_pretrain.data.indexed_writer import IndexedWriter, write_index

ROOT = Path(__file__).resolve().parent.parent
OURS = "llm_pretrain"
SCRIPTS = {OURS: "data_ours.py", "PaddleNLP": "data_paddlenlp.py", "Megatron": "data_megatron.py"}
SEQUENCE, BATCH, BATCHES, EPOCHS, MEAN_LENGTH = 1024, 8, 1000, 3, 400

PARTS = ("reading", "index", "preprocessing")

Figures = dict[str, float]
Runs = dict[str, list[Figures]]


def pythons() -> dict[str, str]:
    """The Python of every program that is installed."""
    megatron = os.environ.get("LLM_PRETRAIN_MEGATRON_PYTHON") or peer_python("transformers")
    found = {
        OURS: Path(sys.executable),
        "PaddleNLP": peer_python("paddlenlp"),
        "Megatron": Path(megatron),
    }
    for name, python in found.items():
        if not python.exists():
            print(f"Left out: {name}; {python} is missing (make peers)")
    return {name: str(python) for name, python in found.items() if python.exists()}


class Bench:
    """Runs a task in each program, round after round."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self.folder = folder
        self.rounds = rounds
        self._pythons = pythons()

    def run(self, task: str, jobs: Sequence[dict[str, Any]], programs: Sequence[str]) -> Runs:
        """`jobs`: one for each round. Each program gets a new prefix or cache of its own."""
        runs: Runs = {name: [] for name in programs if name in self._pythons}
        for job in jobs:
            for name, results in runs.items():
                own = Path(tempfile.mkdtemp(prefix=f"{task}-{name}-", dir=self.folder))
                prefix = {} if "prefix" in job else {"prefix": str(own / "text")}
                results.append(self._one(name, task, {**job, **prefix, "cache": str(own)}))
        return runs

    def _one(self, name: str, task: str, job: dict[str, Any]) -> Figures:
        described, result = self.folder / "job.json", self.folder / "result.json"
        described.write_text(json.dumps(job))
        path = {"PYTHONPATH": str(ROOT)} if name == OURS else {}
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        # One core: the tokenizers' own threads and those of the libraries are off.
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
        done = subprocess.run(
            [self._pythons[name], ROOT / "benchmarks" / SCRIPTS[name], task, described, result],
            env={**environment, **one, **path, "TOKENIZERS_PARALLELISM": "false"},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{name}: {task} ended with {done.returncode}\n{done.stderr[-3000:]}")
        return json.loads(result.read_text())


def rates(runs: Runs, unit: str) -> list[str]:
    """A table of `unit` per second, of processor time and by the clock; medians of the rounds."""
    lines = [
        f"| program | {unit}/s of processor time | {unit}/s by the clock | llm_pretrain is |",
        "|---|---|---|---|",
    ]

    def median(name: str, clock: str) -> float:
        return statistics.median(one[unit] / one[clock] for one in runs[name])

    for name in runs:
        # Of the same round, so that a load that comes and goes weighs on both.
        ratios = [
            statistics.median(
                mine[unit] / mine[clock] / (their[unit] / their[clock])
                for mine, their in zip(runs[OURS], runs[name], strict=True)
            )
            for clock in ("processor", "wall")
        ]
        times = "" if name == OURS else f"{ratios[0]:.2f} times as fast ({ratios[1]:.2f})"
        lines.append(
            f"| {name} | {median(name, 'processor'):,.0f} | {median(name, 'wall'):,.0f} | {times} |"
        )
    return lines


def costs(runs: Runs) -> list[str]:
    lines = [
        "| program | s by the clock | s of processor time | peak MiB | of it building "
        "| llm_pretrain is |",
        "|---|---|---|---|---|---|",
    ]
    median = {
        name: {key: statistics.median(one[key] for one in results) for key in results[0]}
        for name, results in runs.items()
    }
    for name, one in median.items():
        ratio = one["wall"] / median[OURS]["wall"]
        times = "" if name == OURS else f"{ratio:.2f} times as fast"
        lines.append(
            f"| {name} | {one['wall']:.2f} | {one['processor']:.2f} | {one['peak_mib']:.0f} "
            f"| {one['growth_mib']:.0f} | {times} |"
        )
    return lines


def preprocessing(bench: Bench, texts: list[str], language: str) -> Runs:
    folder = bench.folder / language
    folder.mkdir()
    train_tokenizer(texts, folder)
    pieces = write_pieces(texts, folder, bench.rounds)
    jobs = [{"tokenizer": str(folder), "text": str(piece)} for piece in pieces]
    return bench.run("preprocess", jobs, list(SCRIPTS))


def building(bench: Bench, documents: int) -> Runs:
    prefix = bench.folder / "index" / "text"
    prefix.parent.mkdir()
    lengths = np.random.default_rng(0).integers(1, 2 * MEAN_LENGTH, documents, dtype=np.int32)
    with index_path(prefix).open("wb") as file:
        write_index(file, np.dtype("u2"), lengths)
    tokens = int(lengths.sum(dtype=np.int64))
    with bin_path(prefix).open("wb") as file:
        # A hole: the index depends on the lengths only.
        file.truncate(2 * tokens)
    samples = (EPOCHS * tokens - 1) // SEQUENCE
    job = {"prefix": str(prefix), "sequence_length": SEQUENCE, "samples": samples}
    return bench.run("index", [job] * bench.rounds, list(SCRIPTS))


def reading(bench: Bench, task: str) -> Runs:
    """Of as many random tokens as the samples take, in documents of 400 tokens on average."""
    prefix = bench.folder / task / "text"
    random = np.random.default_rng(0)
    samples = BATCH * BATCHES
    lengths = random.integers(1, 2 * MEAN_LENGTH, samples * SEQUENCE // MEAN_LENGTH + 1000)
    with IndexedWriter(prefix, np.uint16) as writer:
        writer.add_documents(random.integers(0, 60000, int(lengths.sum())), lengths)
    job = {
        "prefix": str(prefix),
        "sequence_length": SEQUENCE,
        "samples": samples,
        "batch": BATCH,
        "batches": BATCHES,
    }
    runs = bench.run(task, [job] * bench.rounds, [OURS, "Megatron"])
    assert len({one["check"] for results in runs.values() for one in results}) == 1
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="*", default=PARTS, help=f"of {' '.join(PARTS)} (all)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--english", type=int, default=50, help="MB of English (default: 50)")
    # PaddleNLP's tokenizer takes minutes for it: its time grows with the square of a word.
    parser.add_argument("--chinese", type=int, default=30, help="MB of Chinese (default: 30)")
    parser.add_argument("--documents", type=int, default=2_000_000, help="of the index (2 million)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    for part in arguments.parts:
        if part not in PARTS:
            parser.error(f"{part} is none of {' '.join(PARTS)}")
    print(processor(), flush=True)
    figures: dict[str, Runs] = {}

    def show(title: str, runs: Runs, lines: list[str]) -> None:
        figures[title] = runs
        print("\n".join(["", title, "", *lines]), flush=True)

    texts = {"English": (english, arguments.english), "Chinese": (chinese, arguments.chinese)}
    with tempfile.TemporaryDirectory(prefix="data_") as name:
        bench = Bench(Path(name), arguments.rounds)
        if "reading" in arguments.parts:
            for task, title in (("read", "Reading batches"), ("read_single", "Reading samples")):
                runs = reading(bench, task)
                show(title, runs, rates(runs, "samples"))
        if "index" in arguments.parts:
            runs = building(bench, arguments.documents)
            show(f"Index of {arguments.documents:,} documents, {EPOCHS} epochs", runs, costs(runs))
        if "preprocessing" in arguments.parts:
            for language, (make, megabytes) in texts.items():
                runs = preprocessing(bench, make(megabytes), language)
                show(f"Preprocessing {language}", runs, rates(runs, "tokens"))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
