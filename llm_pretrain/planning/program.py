"""The events of a rank of a run, from the trainer's own code on a paddle of shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from llm_pretrain.config import Degrees, RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.planning import shapes
from llm_pretrain.planning.trace import Trace


def trace_step(
    run: RunConfig,
    model: ModelConfig,
    degrees: Degrees,
    rank: int,
    *,
    device: str = "cpu",
    steps: int = 2,
) -> Trace:
    """What a rank does from the building of its part of the model to the end of some steps.

    Args:
        rank: in a job of these degrees.
        device: "cpu" or "gpu".
        steps: the first has no gradients to begin with, later ones are alike.

    Raises:
        RuntimeError: Paddle is imported in this process.
    """
    shapes.install(device)
    from llm_pretrain.planning.shapes.storage import recorder

    with recorder.recording() as events:
        _train(run, model, degrees, rank, steps)
    return Trace(events)


def _train(
    run: RunConfig, model: ModelConfig, degrees: Degrees, rank: int, steps: int
) -> None:
    # They import Paddle: the one of shapes stands there by now.
    from llm_pretrain.ops.operator import set_compute_dtype
    from llm_pretrain.parallel.pipeline.executor import Pipeline
    from llm_pretrain.parallel.sharding.optimizer import LossScale, ShardedAdamW
    from llm_pretrain.planning.shapes.storage import recorder
    from llm_pretrain.training.stage import prepare_stage

    training = run.training
    _mark_passes()
    with _at_place_of(run, degrees, rank) as topology:
        set_compute_dtype(training.compute_dtype)
        _choose_operators(run)
        stage = prepare_stage(run, model, topology, is_resumed=True)
        pipeline = Pipeline(
            stage, topology, hidden_size=model.hidden_size, activation_dtype=training.weight_dtype
        )
        loss_scale = LossScale(1.0, is_dynamic=False)
        optimizer = ShardedAdamW(stage, training, topology, tied_embedding=model.tie_word_embeddings)
        for _ in range(steps):
            micro_batches = _micro_batches(run, model)
            optimizer.begin_step(len(micro_batches))
            loss_sum = topology.sum_over_batch(pipeline.train(micro_batches, 1.0))
            recorder.mark("update")
            norm = optimizer.reduce_gradients()
            optimizer.step(1.0, 1.0, loss_scale)
            del micro_batches, loss_sum, norm


def _mark_passes() -> None:
    """Let every pass through a pipeline begin with a mark."""
    from llm_pretrain.parallel.pipeline import executor
    from llm_pretrain.planning.shapes.storage import recorder

    class MarkedRun(executor._Run):
        def do(self, instruction: Any) -> None:
            if instruction.step in ("forward", "backward"):
                recorder.mark(instruction.step, instruction.micro_batch, instruction.chunk)
            super().do(instruction)

    if executor._Run.__name__ != MarkedRun.__name__:
        executor._Run = MarkedRun  # type: ignore[misc]


@contextmanager
def _at_place_of(run: RunConfig, degrees: Degrees, rank: int) -> Iterator[Any]:
    """Be that rank within the block."""
    from llm_pretrain.parallel.comm import topology
    from llm_pretrain.planning.ranks import Ranks
    from llm_pretrain.planning.shapes.collectives import world

    ranks = Ranks(degrees, run.training.hybrid_parallel_topo_order)
    world.size, world.rank = degrees.world_size, rank
    place = ranks.topology(rank, sequence_parallel=run.training.sequence_parallel)
    with topology.at(place):
        yield place


def _choose_operators(run: RunConfig) -> None:
    """Let the implementations serve that are on the device, in C++ or CUDA before all others."""
    from llm_pretrain.machine import device
    from llm_pretrain.ops import OPERATORS
    from llm_pretrain.ops.native import library
    from llm_pretrain.ops.operator import CPP, CUDA, HOPPER, PADDLE
    from llm_pretrain.planning.shapes.native import NativeLibrary

    native = NativeLibrary()
    library.find = lambda: (native, "shapes")  # type: ignore[assignment]
    library._openmp = lambda: SimpleNamespace(omp_get_max_threads=lambda: 1)  # type: ignore[assignment]
    library._LEAST = 1 << 62
    ours = CPP if device.kind() == "cpu" else CUDA
    dtype = run.training.compute_dtype
    for operator in OPERATORS.values():
        switch = getattr(run.model, operator.switch) if operator.switch else None
        serving = []
        for name in (ours, PADDLE, HOPPER) if switch is not False else ():
            module = operator.implementations[name]
            if (
                module is not None
                and dtype in getattr(module, "DTYPES", (dtype,))
                and (name == ours or module.device_has_kernel())
            ):
                serving.append(name)
        operator.serve_by(*serving)


def _micro_batches(run: RunConfig, model: ModelConfig) -> list[Any]:
    """Those of a step, of tokens that nobody reads."""
    from llm_pretrain.parallel.layers.micro_batch import split_batch
    from llm_pretrain.parallel.layers.vocabulary import IGNORED_LABEL

    training, length = run.training, run.data.max_seq_length
    size = training.per_device_train_batch_size
    tokens = np.zeros((size, length), np.int64)
    structure = {}
    if model.blank_infilling is not None:
        positions = np.arange(length)[None].repeat(size, 0)
        structure = {
            "position_ids": positions,
            "block_position_ids": positions,
            "prefix_ends": np.full_like(positions, length // 2),
        }
    if run.data.reset_attention_mask:
        structure["document_starts"] = np.zeros_like(tokens)
    return [
        part
        for _ in range(training.gradient_accumulation_steps)
        for part in split_batch(
            tokens, tokens, size, ignored_label=IGNORED_LABEL, structure=structure
        )
    ]
