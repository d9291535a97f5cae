"""What it costs to compare the bits of replicas: the time of the sums, of a step, and their share.

Times are the processor's, all threads together, which other processes don't change.

Trains a small LLaMA in this process on random tokens and sums the bits of all that its optimizer
holds after each step, as replicas do once in `integrity_interval` steps. Trains it again with
`"integrity": "repeat"`, which takes sums at every step.

    python benchmarks/integrity.py [--hidden 512] [--layers 8] [--tokens 1024] [--steps 4]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from llm_pretrain.config import TrainingArguments
from llm_pretrain.data.indexed_writer import IndexedWriter
from llm_pretrain.ops.bit_sum import bit_sums
from llm_pretrain.parallel.sharding.replicas import held_values
from llm_pretrain.training.integrity import Integrity
from llm_pretrain.training.run import run

VOCABULARY, LENGTH = 8192, 256
INTERVAL: int = TrainingArguments.model_fields["integrity_interval"].default


def write_config(folder: Path, arguments: argparse.Namespace, integrity: str) -> Path:
    model = {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": arguments.hidden,
        "intermediate_size": arguments.hidden * 11 // 4,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": arguments.hidden // 64,
        "max_position_embeddings": LENGTH,
    }
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(model))
    with IndexedWriter(folder / "text", np.uint16) as writer:
        tokens = arguments.tokens * (arguments.steps + 4)
        writer.add_document(np.random.default_rng(0).integers(0, VOCABULARY, tokens))
    config = {
        "model_name_or_path": str(folder / "model"),
        "input_dir": str(folder),
        "output_dir": str(folder / "out"),
        "split": "100,0,0",
        "max_seq_length": LENGTH,
        "per_device_train_batch_size": arguments.tokens // LENGTH,
        "max_steps": arguments.steps,
        "integrity": integrity,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "do_train": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "config.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1024, help="of a step")
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    size, sums, step = measured(arguments, "off")
    _, _, checked = measured(arguments, "repeat")
    print(
        f"{size / 1e6:.0f} MB in {sums:.3f} s ({size / sums / 1e9:.2f} GB/s), a step of "
        f"{arguments.tokens} tokens {step:.2f} s: {sums / step / INTERVAL:.3%} of a step at the "
        f'default interval of {INTERVAL}; with "repeat" a step takes {checked:.2f} s'
    )


def measured(arguments: argparse.Namespace, integrity: str) -> tuple[int, float, float]:
    """Bytes of the values, and medians of the seconds of their sums and of a step without them."""
    sums: list[float] = []
    steps: list[float] = []
    size, ended = 0, 0.0
    compare = Integrity.compare

    def timed(self: Integrity, step: int, **options: Any) -> None:
        nonlocal size, ended
        began = time.process_time()
        if ended:
            steps.append(began - ended)
        held = held_values(self.optimizer)
        bit_sums([value.tensor for value in held]).tolist()
        sums.append(time.process_time() - began)
        size = sum(value.tensor.size * value.tensor.element_size() for value in held)
        compare(self, step, **options)
        ended = time.process_time()

    Integrity.compare = timed  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            run([str(write_config(Path(folder), arguments, integrity))])
    finally:
        Integrity.compare = compare  # type: ignore[method-assign]
    return size, median(sums), median(steps)


if __name__ == "__main__":
    main()
