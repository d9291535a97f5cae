"""A training step, here and in the programs one might use instead.

The shapes: a LLaMA of 134 million parameters, at 2 × 512 tokens ("base") and at 4,096 ("long"); one
of two layers with a vocabulary of 128,000, whose head is most of it ("wide"); four layers at 16,384
tokens ("longest"); and Qwen2-0.5B's, with grouped queries ("grouped"). Each program runs in its own
environment (`make peers`), with the same threads, one at a time; the rounds are interleaved, so
that a machine that slows down slows all of them. A program that isn't installed is left out with a
line that says so.

    python benchmarks/train_step.py [--rounds 3] [--steps 5] [--shapes base,wide]
        [--programs llm_pretrain,PyTorch] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llm_pretrain import machine
from llm_pretrain.data.indexed_writer import IndexedWriter
from llm_pretrain.monitor.metrics_log import read_metrics

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "benchmarks" / "programs"
# Steps at the start that are not counted: allocators and caches fill in them.
WARM_UP = 3


class Shape(NamedTuple):
    """A model and a batch."""

    title: str
    vocabulary: int
    layers: int
    batch: int
    sequence: int
    hidden: int = 768
    inner: int = 2048
    heads: int = 12
    key_value_heads: int = 12
    tied: bool = False

    def published(self) -> dict[str, Any]:
        """The model's config.json, and the batch for the peers' programs."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "max_position_embeddings": self.sequence,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": self.tied,
        }


SHAPES = {
    "base": Shape("768 × 12 layers, vocabulary 32,000, 2 × 512 tokens", 32_000, 12, 2, 512),
    "wide": Shape("768 × 2 layers, vocabulary 128,000, 1 × 2048 tokens", 128_000, 2, 1, 2048),
    "long": Shape("768 × 12 layers, vocabulary 32,000, 1 × 4096 tokens", 32_000, 12, 1, 4096),
    "longest": Shape("768 × 4 layers, vocabulary 32,000, 1 × 16,384 tokens", 32_000, 4, 1, 16_384),
    "grouped": Shape(
        "Qwen2-0.5B's 896 × 24 layers, vocabulary 151,936, 1 × 2048 tokens",
        vocabulary=151_936,
        layers=24,
        batch=1,
        sequence=2048,
        hidden=896,
        inner=4864,
        heads=14,
        key_value_heads=2,
        tied=True,
    ),
    "tiny": Shape("768 × 2 layers, vocabulary 1,000, 1 × 64 tokens", 1_000, 2, 1, 64),
}


class Program(NamedTuple):
    """A label, the precision of products, and for a peer its environment and script."""

    label: str
    dtype: str
    environment: str = ""
    script: str = ""
    mode: str = ""
    """Of `torch.compile`."""


OURS = "llm_pretrain"
AUTOTUNE = "max-autotune"
PROGRAMS = (
    Program(OURS, "float32"),
    Program("PyTorch", "float32", "transformers", "torch_llama.py"),
    Program("torch.compile", "float32", "transformers", "torch_llama.py", "default"),
    Program("torch.compile max-autotune", "float32", "transformers", "torch_llama.py", AUTOTUNE),
    Program("transformers", "float32", "transformers", "transformers_llama.py"),
    Program("PaddleNLP", "float32", "paddlenlp", "paddlenlp_llama.py"),
    Program(OURS, "bfloat16"),
    Program("PyTorch", "bfloat16", "transformers", "torch_llama.py"),
    Program("torch.compile", "bfloat16", "transformers", "torch_llama.py", "default"),
    Program("torch.compile max-autotune", "bfloat16", "transformers", "torch_llama.py", AUTOTUNE),
    Program("transformers", "bfloat16", "transformers", "transformers_llama.py"),
)


class Measured(NamedTuple):
    """Of one run: seconds of each counted step, peak memory in MiB, the last loss."""

    seconds: list[float]
    memory_mib: float
    loss: float


def peer_python(environment: str) -> Path:
    named = os.environ.get(f"LLM_PRETRAIN_{environment.upper()}_PYTHON")
    return Path(named or ROOT / f".venv-{environment}" / "bin" / "python")


def run(command: Sequence[str | Path], environment: dict[str, str], log: Path) -> None:
    with log.open("w") as output:
        done = subprocess.run(
            [str(word) for word in command],
            env=environment,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
        raise SystemExit(f"{command[1]} ended with status {done.returncode}")


def measure(program: Program, shape: Shape, steps: int, folder: Path) -> Measured:
    if program.label == OURS:
        return measure_ours(program.dtype, shape, steps, folder)
    return measure_peer(program, shape, steps, folder)


def our_config(shape: Shape, dtype: str, steps: int, folder: Path) -> dict[str, Any]:
    """A config of this program, for the model and random tokens that are made where they aren't."""
    model, data, output = folder / "model", folder / "data", folder / "run"
    if not data.exists():
        data.mkdir()
        model.mkdir()
        published = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
        (model / "config.json").write_text(json.dumps({**published, **shape.published()}))
        tokens = np.random.default_rng(0).integers(0, shape.vocabulary, (64, 1000))
        with IndexedWriter(data / "random", np.int32) as writer:
            writer.add_documents(tokens.reshape(-1), np.full(64, 1000, dtype=np.int32))
    return {
        "model_name_or_path": str(model),
        "input_dir": str(data),
        "output_dir": str(output),
        "overwrite_output_dir": True,
        "split": "100,0,0",
        "max_seq_length": shape.sequence,
        "per_device_train_batch_size": shape.batch,
        "max_steps": steps,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.1,
        "bf16": dtype == "bfloat16",
        "do_train": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "device": "cpu",
    }


def measure_ours(dtype: str, shape: Shape, steps: int, folder: Path) -> Measured:
    """The whole program: it reads its batches, clips, logs and reports as in any training."""
    path = folder / "config.json"
    path.write_text(json.dumps(our_config(shape, dtype, steps, folder)))
    environment = machine.environment_without_choices()
    run([sys.executable, ROOT / "run_pretrain.py", path], environment, folder / "ours.txt")
    lines = [line for line in read_metrics(folder / "run") if line["kind"] == "step"]
    speeds = [line["interval_tokens_per_second_per_device"] for line in lines]
    return Measured(
        [shape.batch * shape.sequence / speed for speed in speeds[WARM_UP:]],
        lines[-1]["max_memory_allocated"],
        lines[-1]["loss"],
    )


def measure_peer(program: Program, shape: Shape, steps: int, folder: Path) -> Measured:
    described, result = folder / "shape.json", folder / "result.json"
    batch = {"batch": shape.batch, "sequence": shape.sequence}
    described.write_text(json.dumps({**shape.published(), **batch}))
    # With what was chosen for this program: the same threads, and MKL's fast path.
    environment = dict(os.environ)
    environment.pop("PYTHONPATH", None)
    command = [peer_python(program.environment), SCRIPTS / program.script]
    words: list[str | Path] = [described, str(steps), result, program.dtype, program.mode]
    run([*command, *words], environment, folder / "peer.txt")
    measured = json.loads(result.read_text())
    return Measured(measured["seconds"][WARM_UP:], measured["memory_mib"], measured["losses"][-1])


def table(shape: Shape, runs: dict[Program, list[Measured]]) -> list[str]:
    """Medians over all counted steps and peaks of memory, each beside ours of the same dtype."""
    seconds = {
        program: statistics.median(second for one in measured for second in one.seconds)
        for program, measured in runs.items()
    }
    memory = {program: max(one.memory_mib for one in each) for program, each in runs.items()}
    lines = [
        f"{shape.title}:",
        "",
        "| program | dtype | s per step | tokens/s | MiB | llm_pretrain: speed | memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for program in runs:
        ours = Program(OURS, program.dtype)
        speed = f"{seconds[program] / seconds[ours]:.2f} ×" if program != ours else ""
        share = f"{memory[ours] / memory[program]:.2f} ×" if program != ours else ""
        rate = shape.batch * shape.sequence / seconds[program]
        lines.append(
            f"| {program.label} | {program.dtype} | {seconds[program]:.3f} | {rate:.0f} | "
            f"{memory[program]:.0f} | {speed} | {share} |"
        )
    return lines


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each program (default: 3)")
    parser.add_argument("--steps", type=int, default=5, help="counted steps of a run (default: 5)")
    parser.add_argument(
        "--shapes", default="base,wide", help=f"of: {', '.join(SHAPES)} (default: base,wide)"
    )
    parser.add_argument("--programs", default="", help="their names, with commas (default: all)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    programs = []
    wanted = set(filter(None, arguments.programs.split(",")))
    for program in PROGRAMS:
        if wanted and program.label not in wanted:
            continue
        if program.label == OURS or peer_python(program.environment).exists():
            programs.append(program)
        else:
            missing = peer_python(program.environment)
            print(f"Left out: {program.label}; {missing} is missing (make peers)")
    settings = ", ".join(f"{choice.name}={choice.value}" for choice in machine.choices())
    print(f"{processor()}; {settings}", flush=True)
    figures: dict[str, Any] = {"processor": processor(), "settings": settings}
    for name in arguments.shapes.split(","):
        shape = SHAPES[name]
        runs = measure_all(programs, shape, arguments.rounds, WARM_UP + arguments.steps)
        print("\n".join(["", *table(shape, runs), ""]), flush=True)
        figures[name] = {
            f"{program.label} {program.dtype}": [one._asdict() for one in measured]
            for program, measured in runs.items()
        }
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def measure_all(
    programs: Sequence[Program], shape: Shape, rounds: int, steps: int
) -> dict[Program, list[Measured]]:
    runs: dict[Program, list[Measured]] = {program: [] for program in programs}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for program, measured in runs.items():
                measured.append(measure(program, shape, steps, Path(folder)))
                middle = statistics.median(measured[-1].seconds)
                print(f"{program.label} {program.dtype}: {middle:.3f} s", flush=True)
    return runs


if __name__ == "__main__":
    main()
