"""The events of a rank of a run, from the trainer's own code on a paddle of shapes.

What imports Paddle is imported within functions, when the paddle of shapes stands in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from llm_pretrain.config import Degrees, RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.planning import shapes
from llm_pretrain.planning.ranks import Ranks
from llm_pretrain.planning.shapes.collectives import world
from llm_pretrain.planning.shapes.native import NativeLibrary
from llm_pretrain.planning.shapes.storage import recorder
from llm_pretrain.planning.trace import Trace


def trace_step(
    run: RunConfig,
    model: ModelConfig,
    degrees: Degrees,
    rank: int,
    *,
    device: str = "cpu",
    steps: int = 2,
    by_references: bool = False,
) -> Trace:
    """What a rank does from the building of its part of the model to the end of some steps.

    Args:
        rank: in a job of these degrees.
        device: "cpu" or "gpu".
        steps: the first has no gradients to begin with; all but the last have as few
            micro-batches as the pipeline can have.
        by_references: as where the operators in C++ or CUDA are not built.

    Raises:
        RuntimeError: Paddle is imported in this process.
    """
    shapes.install(device)

    _forget_tables()
    with recorder.recording() as events:
        _choose_operators(run, by_references=by_references)
        _train(run, model, degrees, rank, steps)
    return Trace(events)


class ThisProgram:
    """This program on devices of a kind, "cpu" or "gpu"."""

    def __init__(self, device: str) -> None:
        self.device = device

    def trace(
        self, run: RunConfig, model: ModelConfig, degrees: Degrees, rank: int, *, steps: int
    ) -> Trace:
        """See `trace_step`."""
        return trace_step(run, model, degrees, rank, device=self.device, steps=steps)


def _forget_tables() -> None:
    """Let the trace make what a process makes once and keeps."""
    from llm_pretrain.models import position
    from llm_pretrain.ops import mask

    position._tables.cache_clear()
    mask._future.cache_clear()


def _train(run: RunConfig, model: ModelConfig, degrees: Degrees, rank: int, steps: int) -> None:
    """As `training.run` and the trainer do, without data, reports and checkpoints."""
    from llm_pretrain.models.maximal_update import MaximalUpdate
    from llm_pretrain.ops.operator import set_compute_dtype
    from llm_pretrain.parallel.pipeline.executor import Pipeline
    from llm_pretrain.parallel.sharding.optimizer import LossScale, ShardedAdamW
    from llm_pretrain.training.stage import prepare_stage

    training = run.training
    with _at_place_of(run, degrees, rank) as topology:
        set_compute_dtype(training.compute_dtype)
        stage = prepare_stage(run, model, topology, is_resumed=True)
        _mark_blocks(stage)
        pipeline = Pipeline(
            stage, topology, hidden_size=model.hidden_size, activation_dtype=training.weight_dtype
        )
        loss_scale = LossScale(1.0, is_dynamic=False)
        optimizer = ShardedAdamW(
            stage,
            training,
            topology,
            tied_embedding=model.tie_word_embeddings,
            rate_of=MaximalUpdate(model, training).rate,
        )
        # The first of several steps only leaves what later ones begin with.
        least = degrees.pipeline if degrees.virtual_pipeline > 1 else 1
        for step in range(steps):
            micro_batches = _micro_batches(run, model)
            if step < steps - 1:
                del micro_batches[least:]
            optimizer.begin_step(len(micro_batches))
            with _marked_passes():
                loss_sum = pipeline.train(micro_batches, 1.0)
            topology.sum_over_batch(loss_sum)
            recorder.mark("update")
            norm = optimizer.reduce_gradients()
            optimizer.step(1.0, 1.0, loss_scale)
            del micro_batches, loss_sum, norm


@contextmanager
def _at_place_of(run: RunConfig, degrees: Degrees, rank: int) -> Iterator[Any]:
    """Be that rank within the block."""
    from llm_pretrain.parallel.comm import topology
    from llm_pretrain.parallel.pipeline.schedules import Place, warm_up_passes

    ranks = Ranks(degrees, run.training.hybrid_parallel_topo_order)
    world.size, world.rank = degrees.world_size, rank
    place = ranks.topology(rank, sequence_parallel=run.training.sequence_parallel)
    # The rank that receives may be as far behind as the schedule lets it.
    world.ahead = warm_up_passes(
        Place(place.pipeline_rank, degrees.pipeline, degrees.virtual_pipeline)
    )
    with topology.at(place):
        yield place


@contextmanager
def _marked_passes() -> Iterator[None]:
    """Mark each pass of a micro-batch through a chunk."""
    from llm_pretrain.parallel.pipeline import executor

    class MarkedRun(executor.ScheduleRun):
        def do(self, instruction: Any) -> None:
            if instruction.step in ("forward", "backward"):
                recorder.mark(instruction.step, instruction.micro_batch, instruction.chunk)
            super().do(instruction)

    plain, executor.ScheduleRun = executor.ScheduleRun, MarkedRun  # type: ignore[misc]
    try:
        yield
    finally:
        executor.ScheduleRun = plain  # type: ignore[misc]


def _mark_blocks(stage: Any) -> None:
    """Mark where each decoder block begins, forward and backward, and where the last ends."""
    from llm_pretrain.models.decoder import DecoderBlock
    from llm_pretrain.training.stage import BlockRun

    def begin(block: int, phase: Any) -> None:
        last = recorder.last
        recorder.mark(phase, last.micro_batch, last.chunk, block)

    def end(block: int, output: Any) -> None:
        begin(block + 1, "forward")
        if not output.stop_gradient:
            output.register_hook(lambda _: begin(block, "backward"))

    for layers in stage.chunks:
        blocks = [layer for layer in layers if isinstance(layer, (DecoderBlock, BlockRun))]
        for number, block in enumerate(blocks):
            block.register_forward_pre_hook(lambda *_, at=number: begin(at, "forward"))
            block.register_forward_post_hook(lambda _, __, output, at=number: end(at, output))


def _choose_operators(run: RunConfig, *, by_references: bool) -> None:
    """Let the implementations serve that are on the device, in C++ or CUDA before all others."""
    from llm_pretrain.machine import device
    from llm_pretrain.ops import OPERATORS
    from llm_pretrain.ops.native import library
    from llm_pretrain.ops.operator import CPP, CUDA, HOPPER, PADDLE

    native = NativeLibrary()
    library.find = lambda: (native, "shapes")  # type: ignore[assignment]
    library._openmp = lambda: SimpleNamespace(omp_get_max_threads=lambda: 1)  # type: ignore[assignment]
    library._LEAST = 1 << 62
    ours = CPP if device.kind() == "cpu" else CUDA
    dtype = run.training.compute_dtype
    for operator in OPERATORS.values():
        is_off = by_references or (operator.switch and getattr(run.model, operator.switch) is False)
        serving = [
            name
            for name in (ours, PADDLE, HOPPER)
            if (module := operator.implementations[name]) is not None
            and dtype in getattr(module, "DTYPES", (dtype,))
            and (name == ours or module.device_has_kernel())
        ]
        operator.serve_by(*([] if is_off else serving))


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
