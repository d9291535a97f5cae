"""One launch that trains cases in turn, with faults in some of their steps.

Usage: unstable_rank.py CASES.json. A case has the path of a `config`, and `faults` by the step
whose samples bring them: "gradient" (the last rank's is a million times too large), "nan" (the last
rank's is no number) or "loss" (ten times too large, on all ranks). Each rank writes what it decides
to OUTPUT_DIR/decisions-<rank>.jsonl; a run that ends itself leaves its error in OUTPUT_DIR/error.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from paddle.distributed.fleet.base import topology as fleet_topology

from llm_pretrain.config import load_run_config, resolve_degrees
from llm_pretrain.parallel.comm import gloo, topology
from llm_pretrain.parallel.pipeline.executor import Pipeline
from llm_pretrain.training.run import model_config_of, train
from llm_pretrain.training.stability import Stability, Step, UnstableRunError

GRADIENT_FACTORS = {"gradient": 1e6, "nan": float("nan")}
train_pipeline = Pipeline.train
decide = Stability.decide
faults: dict[str, str] = {}
batch = 0
decisions = Path()


def faulty_train(self: Pipeline, micro_batches: Any, loss_factor: float) -> Any:
    step = micro_batches[0].sequences.sample_ids[0] // batch + 1
    fault = faults.get(str(step), "")
    is_last = self.topology.rank == self.topology.world_size - 1
    factor = GRADIENT_FACTORS.get(fault, 1.0) if is_last else 1.0
    loss_sum = train_pipeline(self, micro_batches, loss_factor * factor)
    return loss_sum * 10.0 if fault == "loss" else loss_sum


def recorded_decide(self: Stability, step: Step) -> Any:
    action = "stop"
    try:
        decision = decide(self, step)
        action = decision.action
        return decision
    finally:
        with decisions.open("a") as file:
            line = [step.number, step.loss.hex(), step.norm.hex(), list(step.samples), action]
            file.write(json.dumps(line) + "\n")


Pipeline.train = faulty_train  # type: ignore[method-assign]
Stability.decide = recorded_decide  # type: ignore[method-assign]
here = None
for case in json.loads(Path(sys.argv[1]).read_text()):
    run = load_run_config(case["config"])
    degrees = resolve_degrees(run.training, topology.world_size())
    if here is None:
        fleet_topology._HYBRID_PARALLEL_GROUP = None
        here = topology.initialize(degrees, order=run.training.hybrid_parallel_topo_order)
        gloo.install = lambda *_, **__: None
        topology.met = lambda *_, **__: nullcontext()
    training = run.training
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    batch *= here.batch_degree
    faults = case["faults"]
    output = Path(training.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    decisions = output / f"decisions-{here.rank}.jsonl"
    try:
        assert train(run, model_config_of(run), here) == 0
    except UnstableRunError as error:
        if here.rank == 0:
            (output / "error").write_text(str(error))
