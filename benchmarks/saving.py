"""How long training waits for checkpoints, as a share of the time of the steps between them.

The LLaMA of 134 million parameters of `train_step.py` saves at every 10th step, beside the training
and at once, on one process and on four.

    python benchmarks/saving.py [--processes 1,4] [--steps 40] [--every 10] [--shape base]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from train_step import ROOT, SHAPES, Shape, run

from llm_pretrain import machine
from llm_pretrain.data.indexed_writer import IndexedWriter
from llm_pretrain.monitor.metrics_log import read_metrics

LAYOUTS: dict[int, dict[str, Any]] = {
    1: {},
    2: {"sharding": "stage1"},
    4: {"tensor_parallel_degree": 2, "sharding": "stage1"},
}


def measure(
    shape: Shape, processes: int, steps: int, every: int, is_beside: bool, folder: Path
) -> str:
    """A line on one run."""
    output = folder / "run"
    config = {
        "model_name_or_path": str(folder / "model"),
        "input_dir": str(folder / "data"),
        "output_dir": str(output),
        "overwrite_output_dir": True,
        "split": "100,0,0",
        "max_seq_length": shape.sequence,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": shape.batch,
        "max_steps": steps,
        "do_train": True,
        "logging_steps": 1,
        "save_steps": every,
        "save_total_limit": 1,
        "use_async_save": is_beside,
        "report_to": "none",
        "device": "cpu",
        **LAYOUTS[processes],
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", processes]
    command = [sys.executable, *(map(str, launcher) if processes > 1 else ()), "run_pretrain.py"]
    environment = {**machine.environment_without_choices(), "PYTHONPATH": str(ROOT)}
    run([*command, path], environment, folder / "console.txt")
    lines = read_metrics(output)
    seconds = [line["step_seconds"] for line in lines if line["kind"] == "step"]
    # The last is waited for: there is nothing left to do beside it.
    saves = [line for line in lines if line["kind"] == "save"][:-1]
    blocked = statistics.median(line["blocked_seconds"] for line in saves)
    written = statistics.median(line["seconds"] for line in saves)
    ten = statistics.median(seconds) * every
    first = saves[0]["blocked_seconds"]
    return (
        f"| {processes} | {'beside' if is_beside else 'at once'} | {saves[0]['bytes'] / 1e9:.2f} | "
        f"{statistics.median(seconds):.2f} | {written:.2f} | {first:.3f} | {blocked:.3f} | "
        f"{blocked / ten:.2%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--processes", default="1,4", help="of: 1, 2, 4 (default: 1,4)")
    parser.add_argument("--steps", type=int, default=40, help="of each run (default: 40)")
    parser.add_argument("--every", type=int, default=10, help="steps between saves (default: 10)")
    parser.add_argument("--shape", default="base", help="of: base, wide, tiny (default: base)")
    arguments = parser.parse_args()
    if arguments.steps % arguments.every:
        parser.error("--steps is a multiple of --every: the save before the last needs its time")
    shape = SHAPES[arguments.shape]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        (folder / "data").mkdir()
        published = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
        (folder / "model" / "config.json").write_text(
            json.dumps({**published, **shape.published()})
        )
        tokens = np.random.default_rng(0).integers(0, shape.vocabulary, (64, 1000))
        with IndexedWriter(folder / "data" / "random", np.int32) as writer:
            writer.add_documents(tokens.reshape(-1), np.full(64, 1000, dtype=np.int32))
        print(
            "| processes | written | GB | s per step | s to write | first wait | wait, s | share |"
        )
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for processes in map(int, arguments.processes.split(",")):
            for is_beside in (True, False):
                line = measure(
                    shape, processes, arguments.steps, arguments.every, is_beside, folder
                )
                print(line, flush=True)


if __name__ == "__main__":
    main()
