"""One training step of a 125M-parameter LLaMA, here and in the programs one might use instead.

Each program runs in its own environment (`make peers`), with the same threads, one at a time; the
rounds are interleaved, so that a machine that slows down slows all of them. A program that isn't
installed is left out with a line that says so.

    python benchmarks/train_step.py [--rounds 3] [--steps 5] [--layers 12] [--json FILE]
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
PROGRAMS = ROOT / "benchmarks" / "programs"
OURS = "llm_pretrain float32"
BATCH, SEQUENCE = 2, 512
# Steps at the start that are not counted: allocators and caches fill in them.
WARM_UP = 2


class Peer(NamedTuple):
    """A program to compare with: its label, environment, script and the script's last argument."""

    label: str
    environment: str
    script: str
    dtype: str


PEERS = (
    Peer("PaddleNLP float32", "paddlenlp", "paddlenlp_llama.py", "float32"),
    Peer("transformers float32", "transformers", "transformers_llama.py", "float32"),
    Peer("transformers bfloat16", "transformers", "transformers_llama.py", "bfloat16"),
    Peer("PyTorch float32", "transformers", "torch_llama.py", "float32"),
    Peer("PyTorch bfloat16", "transformers", "torch_llama.py", "bfloat16"),
)


class Measured(NamedTuple):
    """Of one run: seconds of each counted step, peak memory in MiB, the last loss."""

    seconds: list[float]
    memory_mib: float
    loss: float


def model_shape(layers: int) -> dict[str, Any]:
    return {
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": layers,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "max_position_embeddings": SEQUENCE,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }


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


def measure_ours(shape: dict[str, Any], steps: int, folder: Path) -> Measured:
    """The whole program: it reads its batches, clips, logs and reports as in any training."""
    model, data, output = folder / "model", folder / "data", folder / "run"
    if not data.exists():
        data.mkdir()
        model.mkdir()
        published = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **shape}
        (model / "config.json").write_text(json.dumps(published))
        tokens = np.random.default_rng(0).integers(0, shape["vocab_size"], (64, 1000))
        with IndexedWriter(data / "random", np.uint16) as writer:
            writer.add_documents(tokens.reshape(-1), np.full(64, 1000, dtype=np.int32))
    config = {
        "model_name_or_path": str(model),
        "input_dir": str(data),
        "output_dir": str(output),
        "overwrite_output_dir": True,
        "split": "100,0,0",
        "max_seq_length": SEQUENCE,
        "per_device_train_batch_size": BATCH,
        "max_steps": steps,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.1,
        "do_train": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "device": "cpu",
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    environment = machine.environment_without_choices()
    run([sys.executable, ROOT / "run_pretrain.py", path], environment, folder / "ours.txt")
    lines = [line for line in read_metrics(output) if line["kind"] == "step"]
    speeds = [line["interval_tokens_per_second_per_device"] for line in lines]
    return Measured(
        [BATCH * SEQUENCE / speed for speed in speeds[WARM_UP:]],
        lines[-1]["max_memory_allocated"],
        lines[-1]["loss"],
    )


def measure_peer(peer: Peer, shape: dict[str, Any], steps: int, folder: Path) -> Measured:
    described, result = folder / "shape.json", folder / "result.json"
    described.write_text(json.dumps({**shape, "batch": BATCH, "sequence": SEQUENCE}))
    # With what was chosen for this program: the same threads, and MKL's fast path.
    environment = dict(os.environ)
    environment.pop("PYTHONPATH", None)
    script = PROGRAMS / peer.script
    program = [peer_python(peer.environment), script]
    run([*program, described, str(steps), result, peer.dtype], environment, folder / "peer.txt")
    measured = json.loads(result.read_text())
    return Measured(measured["seconds"][WARM_UP:], measured["memory_mib"], measured["losses"][-1])


def table(medians: dict[str, float], memory: dict[str, float]) -> list[str]:
    lines = ["| program | s per step | tokens/s | MiB | llm_pretrain is |", "|---|---|---|---|---|"]
    for label, seconds in medians.items():
        ratio = f"{seconds / medians[OURS]:.2f} times as fast" if label != OURS else ""
        speed = BATCH * SEQUENCE / seconds
        lines.append(f"| {label} | {seconds:.3f} | {speed:.0f} | {memory[label]:.0f} | {ratio} |")
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
    parser.add_argument("--layers", type=int, default=12, help="layers of the model (default: 12)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    shape = model_shape(arguments.layers)
    peers = [peer for peer in PEERS if peer_python(peer.environment).exists()]
    for peer in PEERS:
        if peer not in peers:
            missing = peer_python(peer.environment)
            print(f"Left out: {peer.label}; {missing} is missing (make peers)")
    settings = ", ".join(f"{choice.name}={choice.value}" for choice in machine.choices())
    print(f"{processor()}; {settings}", flush=True)
    steps = WARM_UP + arguments.steps
    by_label = {peer.label: peer for peer in peers}
    runs: dict[str, list[Measured]] = {label: [] for label in (OURS, *by_label)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(arguments.rounds):
            for label, measured in runs.items():
                measured.append(
                    measure_ours(shape, steps, folder)
                    if label == OURS
                    else measure_peer(by_label[label], shape, steps, folder)
                )
                print(f"{label}: {statistics.median(measured[-1].seconds):.3f} s", flush=True)
    medians = {
        label: statistics.median(second for one in measured for second in one.seconds)
        for label, measured in runs.items()
    }
    memory = {label: max(one.memory_mib for one in measured) for label, measured in runs.items()}
    print("\n".join(["", *table(medians, memory)]))
    if arguments.json:
        figures = {
            "processor": processor(),
            "settings": settings,
            "shape": {**shape, "batch": BATCH, "sequence": SEQUENCE},
            "median_seconds": medians,
            "runs": {label: [one._asdict() for one in each] for label, each in runs.items()},
        }
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
