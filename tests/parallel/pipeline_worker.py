"""Steps and evaluations of a pipeline, beside those of one process.

Usage: pipeline_worker.py DIRECTORY RANKS CASES.json; every rank writes what it found of each case
to DIRECTORY/RANK.json. A case names "chunks" and "layers" and may name "tied", "run_length",
"measured", and "cpp" for the C++ operators.
"""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from llm_pretrain.config import Degrees, TrainingArguments
from llm_pretrain.ops import dispatch
from llm_pretrain.parallel.comm import collectives, topology
from llm_pretrain.parallel.layers.micro_batch import MicroBatch, split_batch
from llm_pretrain.parallel.pipeline.executor import Pipeline
from llm_pretrain.parallel.sharding.optimizer import LossScale, ShardedAdamW
from llm_pretrain.parallel.sharding.pieces import initialize, named_pieces
from llm_pretrain.training.stage import apply_recompute, build_stage, join_blocks
from tests import cpp_operators
from tests.models.small import CONFIG, small_config

STEPS, SAMPLES, LENGTH = 3, 2, 32
MOST_CHUNKS = 2
ONE_PROCESS = topology.Topology(
    Degrees(data=1, sharding=1, tensor=1, pipeline=1, sep=1, context=1, virtual_pipeline=1)
)


class Run:
    """A model in training over all ranks of the job."""

    def __init__(self, case: dict, here: topology.Topology) -> None:
        self.config = small_config(
            num_hidden_layers=case["layers"], tie_word_embeddings=case.get("tied", False)
        )
        self.stage = build_stage(self.config, here)
        initialize(self.stage, 0)
        if "run_length" in case:
            apply_recompute(join_blocks(self.stage, case["run_length"]), "full")
        self.pipeline = Pipeline(
            self.stage,
            here,
            hidden_size=self.config.hidden_size,
            activation_dtype="float32",
        )
        training = TrainingArguments(output_dir="out", max_steps=STEPS, adam_epsilon=1e-3)
        self.optimizer = ShardedAdamW(
            self.stage, training, here, tied_embedding=self.config.tie_word_embeddings
        )

    def step(self, micro_batches: list[MicroBatch]) -> list[float]:
        """The loss and the gradient's norm."""
        self.optimizer.begin_step(len(micro_batches))
        loss = self.pipeline.train(micro_batches, 1 / len(micro_batches))
        norm = float(self.optimizer.reduce_gradients())
        norm = self.optimizer.step(norm, 0.01, LossScale(1.0, is_dynamic=False)).global_norm
        return [float(loss), norm]

    def weights(self) -> dict[str, np.ndarray]:
        return {piece.name: value.numpy() for value, piece in named_pieces(self.stage)}


def batches(seed: int, count: int) -> list[MicroBatch]:
    """`count` micro-batches of random tokens."""
    shape = [count * SAMPLES, LENGTH + 1]
    tokens = np.random.default_rng(seed).integers(0, CONFIG.vocab_size, shape)
    return split_batch(tokens[:, :-1], tokens[:, 1:], SAMPLES, ignored_label=-100)


def examine(case: dict, here: topology.Topology) -> dict[str, object]:
    by_cpp = case.get("cpp", False) and cpp_operators.serve()
    ours, alone = Run(case, here), Run(case, ONE_PROCESS)
    count = 2 * here.degrees.pipeline
    steps = []
    for step in range(STEPS):
        train, valid = batches(2 * step, count), batches(2 * step + 1, count - 1)
        evaluations = [float(run.pipeline.evaluate(valid)) for run in (ours, alone)]
        steps.append([ours.step(train), alone.step(train), evaluations])
    expected = alone.weights()
    dispatch.use_references()
    return {
        "by C++": by_cpp,
        "layers": list(ours.stage.blocks),
        "steps": steps,
        "off": max(float(abs(w - expected[name]).max()) for name, w in ours.weights().items()),
    }


def activation_bytes(case: dict, here: topology.Topology, count: int) -> int:
    """The most that the backward and forward passes of `count` micro-batches take."""
    from paddle.base import core

    run, micro_batches = Run(case, here), batches(0, count)
    run.step(micro_batches)
    gc.collect()
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    before = core.host_memory_stat_current_value("Allocated", 0)
    run.pipeline.train(micro_batches, 1.0)
    return core.host_memory_stat_peak_value("Allocated", 0) - before


def main(directory: Path, ranks: int, cases: list[dict]) -> None:
    import paddle  # after llm_pretrain, whose settings must come first

    paddle.device.set_device("cpu")
    degrees = replace(ONE_PROCESS.degrees, pipeline=ranks, virtual_pipeline=MOST_CHUNKS)
    here = topology.initialize(degrees)
    found = []
    for case in cases:
        degrees = replace(degrees, virtual_pipeline=case["chunks"])
        here = replace(here, degrees=degrees)
        found.append(examine(case, here))
        if case.get("measured"):
            rounds = (1, 2, 4)
            found[-1]["bytes"] = [activation_bytes(case, here, n * ranks) for n in rounds]
    (directory / f"{here.rank}.json").write_text(json.dumps(found))
    collectives.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text()))
