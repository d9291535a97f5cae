"""Three steps at every sharding stage, beside the same three steps of one process.

Usage: sharding_worker.py DIRECTORY SHARDING_DEGREE CASES.json; every rank writes what it found of
each case to DIRECTORY/RANK.json. A case names a "stage" and may name "options" (of
sharding_parallel_config), "pipeline_options", "recompute", "tied", "dtype", the collective to
"observe", and "cpp" for the C++ operators.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from llm_pretrain.checkpoint.load import load_optimizer
from llm_pretrain.checkpoint.save import SavedState, save_checkpoint, whole_tensors
from llm_pretrain.config import Degrees, TrainingArguments
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.ops import dispatch, internals
from llm_pretrain.parallel.comm import collectives, topology
from llm_pretrain.parallel.sharding.buckets import gathered_pieces
from llm_pretrain.parallel.sharding.optimizer import LossScale, ShardedAdamW
from llm_pretrain.parallel.sharding.pieces import initialize
from llm_pretrain.training.stage import apply_recompute
from tests import cpp_operators
from tests.models.small import small_config

STEPS, MICRO_BATCHES, SAMPLES, LENGTH = 3, 3, 2, 8
LEARNING_RATE = 0.01
ONE_PROCESS = topology.Topology(
    Degrees(data=1, sharding=1, tensor=1, pipeline=1, sep=1, context=1, virtual_pipeline=1)
)
events: list[str] = []
"""What happened in a step: a unit is computed, a backward pass or the optimizer's step begins, a
collective starts or is waited for."""


class Run:
    """A model in training, over all ranks of the job."""

    def __init__(self, case: dict, here: topology.Topology) -> None:
        import paddle

        dtype = case.get("dtype", "float32")
        paddle.set_default_dtype(dtype)
        self.config = small_config(num_hidden_layers=3, tie_word_embeddings=case.get("tied", False))
        self.model = Decoder(self.config)
        paddle.set_default_dtype("float32")
        initialize(self.model, 0)
        if case.get("recompute"):
            apply_recompute(self.model.blocks, case["recompute"])
        self.topology = here
        training = TrainingArguments(
            output_dir="out",
            max_steps=STEPS,
            bf16=dtype == "bfloat16",
            fp16_opt_level="O2" if dtype == "bfloat16" else "O1",
            amp_master_grad=dtype == "bfloat16",
            adam_epsilon=1e-3,  # else a step amplifies the rounding of gradients near zero
            sharding=f"stage{case['stage']}",
            pipeline_parallel_config=case.get("pipeline_options", ""),
            sharding_parallel_config=case.get("options", ""),
        )
        self.optimizer = ShardedAdamW(
            self.model, training, here, tied_embedding=self.config.tie_word_embeddings
        )
        if case.get("observe") == "all_gather_into":
            for unit in self.model.layers:
                unit.register_forward_pre_hook(lambda *_: events.append("unit"))

    def step(self, tokens: np.ndarray) -> float:
        """One step over `tokens` [micro-batches, SAMPLES, length], two micro-batches in flight."""
        import paddle

        share = tokens[self.topology.batch_rank :: self.topology.batch_degree]
        self.optimizer.begin_step(len(share))
        waiting = []
        for batch in map(paddle.to_tensor, share):
            waiting.append(self._loss(batch) / len(tokens))
            if len(waiting) == 2:
                events.append("backward")
                waiting.pop(0).backward()
        for loss in waiting:
            events.append("backward")
            loss.backward()
        events.append("step")
        norm = float(self.optimizer.reduce_gradients())
        return self.optimizer.step(
            norm, LEARNING_RATE, LossScale(1.0, is_dynamic=False)
        ).global_norm

    def _loss(self, batch):
        return self.model(batch[:, :-1], labels_BS=batch[:, 1:]).mean()

    def evaluate(self, tokens: np.ndarray) -> float:
        import paddle

        with paddle.no_grad():
            self.model.eval()
            loss = float(self._loss(paddle.to_tensor(tokens[0])))
            self.model.train()
        return loss

    def weights(self) -> dict[str, np.ndarray]:
        pieces = gathered_pieces(self.model, self.optimizer.buckets)
        return {
            name: value.astype("float32").numpy()
            for name, value in whole_tensors(pieces, self.topology)
        }

    def present(self) -> int:
        """How many parameters have storage."""
        return sum(internals.has_values(value) for value in self.model.parameters())


def largest_difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    assert one.keys() == other.keys()
    return max(float(abs(one[name] - other[name]).max()) for name in one)


class ObservedTask:
    def __init__(self, task: collectives.Task) -> None:
        events.append("start")
        self.task = task

    def wait(self) -> None:
        events.append("wait")
        self.task.wait()


@contextmanager
def observed(name: str) -> Iterator[None]:
    """Note each call of a collective and when it is waited for."""
    plain = getattr(collectives, name)
    setattr(collectives, name, lambda *arguments, **how: ObservedTask(plain(*arguments, **how)))
    try:
        yield
    finally:
        setattr(collectives, name, plain)


def examine(case: dict, here: topology.Topology, directory: Path) -> dict[str, object]:
    by_cpp = case.get("cpp", False) and cpp_operators.serve()
    ours, alone = Run(case, here), Run({**case, "options": ""}, ONE_PROCESS)
    generator = np.random.default_rng(0)
    before = alone.weights()
    norms = []
    for _ in range(STEPS):
        shape = [MICRO_BATCHES * here.batch_degree, SAMPLES, LENGTH]
        tokens = generator.integers(0, ours.config.vocab_size, shape)
        events.clear()
        with observed(case.get("observe", "reduce_scatter")):
            norms.append([ours.step(tokens)])
            seen = list(events)
        norms[-1].append(alone.step(tokens))
    found: dict[str, object] = {"case": case, "norms": norms, "events": seen}
    found["present"] = [ours.present()]
    found["loss"] = [ours.evaluate(tokens), alone.evaluate(tokens)]
    found["present"].append(ours.present())
    after = alone.weights()
    found["moved"] = largest_difference(before, after)
    found["difference"] = largest_difference(ours.weights(), after)
    found["present"].append(ours.present())

    # What one stage saves, the next loads.
    saved = SavedState(directory.parent, ours.model, ours.config, ours.optimizer, here)
    save_checkpoint(saved, saved.part(directory, {}, []))
    other = Run({**case, "stage": case["stage"] % 3 + 1}, here)
    optimizer = other.optimizer
    optimizer.restore(*load_optimizer(directory, optimizer.buckets, optimizer.betas))
    found["restored"] = largest_difference(other.weights(), ours.weights())
    found["norm after"] = [other.step(tokens), ours.step(tokens)]
    found["by C++"] = by_cpp
    dispatch.use_references()
    return found


def main(directory: Path, sharding: int, cases: list[dict]) -> None:
    import paddle  # after llm_pretrain, whose settings must come first

    paddle.device.set_device("cpu")
    degrees = Degrees(
        data=topology.world_size() // sharding,
        sharding=sharding,
        tensor=1,
        pipeline=1,
        sep=1,
        context=1,
        virtual_pipeline=1,
    )
    here = topology.initialize(degrees)
    found = [
        examine(case, here, directory / f"checkpoint-{number}")
        for number, case in enumerate(cases, start=1)
    ]
    (directory / f"{here.rank}.json").write_text(json.dumps(found))
    collectives.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text()))
