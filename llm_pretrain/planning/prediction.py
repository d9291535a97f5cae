"""The memory of a layout, of models of any depth: from traces of a few blocks.

Between two marks of a trace memory is a linear function of the number of blocks: each block leaves
as much as the one before it, and takes as much again on the way back. Two depths therefore give
all, of the first blocks of a pass and of the last; between these the fullest lies at one of the
ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llm_pretrain.config import Degrees, RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.planning.memory import Memory, last_step_begins, moments
from llm_pretrain.planning.program import trace_step
from llm_pretrain.planning.ranks import Ranks
from llm_pretrain.planning.trace import Mark

_ENDS = 3
"""Blocks at either end of a pass that are told apart: two reductions may go on behind one."""
_FEW = 2 * _ENDS
"""Blocks of a chunk that are traced; and one more."""


@dataclass(frozen=True)
class RankMemory:
    """What one rank holds at its fullest; ranks that differ in other places hold as much."""

    rank: int
    pipeline_rank: int
    memory: Memory


def predicted_memory(
    run: RunConfig, model: ModelConfig, degrees: Degrees, *, device: str = "cpu"
) -> list[RankMemory]:
    """Of every stage of the pipeline the memory of a rank, in order.

    Raises:
        RuntimeError: Paddle is imported in this process.
    """
    ranks = Ranks(degrees, run.training.hybrid_parallel_topo_order)
    found = []
    for stage in range(degrees.pipeline):
        rank = ranks.rank({**dict.fromkeys(ranks.axes, 0), "pipeline": stage})
        memory = memory_of_rank(run, model, degrees, rank, device=device)
        found.append(RankMemory(rank, stage, memory))
    return found


def memory_of_rank(
    run: RunConfig, model: ModelConfig, degrees: Degrees, rank: int, *, device: str = "cpu"
) -> Memory:
    """What a rank holds at its fullest in a step that is not the first.

    Exact but for buckets: of `sharding_comm_buffer_size_MB` as they are, what lives for one bucket
    alone, while it is updated, is counted as if all of the rank's vectors or matrices were in one.
    """
    stage = Ranks(degrees, run.training.hybrid_parallel_topo_order).place(rank)["pipeline"]
    whole, run = run, with_few_micro_batches(run, degrees, stage)
    waiting = _bytes_of_batches(whole, degrees) - _bytes_of_batches(run, degrees)
    parts = degrees.pipeline * degrees.virtual_pipeline
    blocks = _blocks_of_chunk(model, degrees, rank, run)
    if blocks is None or blocks <= _FEW + 1:
        found = _moments(run, model, degrees, rank, device)
        return _with_activations(max(found, key=lambda one: one.bytes), waiting)
    few, more = (
        _by_place(_moments(run, _of_depth(model, parts * count), degrees, rank, device), count)
        for count in (_FEW, _FEW + 1)
    )
    grown = [_grown(few[place], more[place], blocks - _FEW) for place in few]
    return _with_activations(max(grown, key=lambda one: one.bytes), waiting)


def _of_depth(model: ModelConfig, layers: int) -> ModelConfig:
    return replace(model, num_hidden_layers=layers)


def _bytes_of_batches(run: RunConfig, degrees: Degrees) -> int:
    """Tokens and labels of a step, int64, which the rank holds throughout."""
    training = run.training
    samples = training.gradient_accumulation_steps * training.per_device_train_batch_size
    return 2 * 8 * samples * run.data.max_seq_length // degrees.sequence


def _with_activations(memory: Memory, size: int) -> Memory:
    parts = {**memory.parts, "activations": memory.parts.get("activations", 0) + size}
    return replace(memory, bytes=memory.bytes + size, parts=parts)


def with_few_micro_batches(run: RunConfig, degrees: Degrees, stage: int) -> RunConfig:
    """The run with no more micro-batches a step than fill the pipeline from that stage on, and then
    go round once."""
    ranks, chunks = degrees.pipeline, degrees.virtual_pipeline
    once_round = ranks + 1 if stage == 0 else ranks - stage + 2
    needed = 2 if ranks == 1 else once_round if chunks == 1 else 3 * ranks
    count = min(run.training.gradient_accumulation_steps, needed)
    training = run.training.model_copy(update={"gradient_accumulation_steps": count})
    return replace(run, training=training)


def _blocks_of_chunk(model: ModelConfig, degrees: Degrees, rank: int, run: RunConfig) -> int | None:
    """The blocks of each chunk of the rank; None where chunks or blocks are not alike."""
    training = run.training
    if training.recompute and (training.no_recompute_layers or training.pp_recompute_interval != 1):
        return None
    layers, parts = model.num_hidden_layers, degrees.pipeline * degrees.virtual_pipeline
    if degrees.virtual_pipeline > 1:
        return None if layers % parts else layers // parts
    stage = Ranks(degrees, training.hybrid_parallel_topo_order).place(rank)["pipeline"]
    return (stage + 1) * layers // parts - stage * layers // parts


def _moments(
    run: RunConfig, model: ModelConfig, degrees: Degrees, rank: int, device: str
) -> list[Memory]:
    trace = trace_step(run, model, degrees, rank, device=device)
    return moments(trace, begin=last_step_begins(trace))


def _by_place(found: list[Memory], blocks: int) -> dict[tuple[object, ...], Memory]:
    """Moments by where they are, the same for any number of blocks; those between are left out."""
    places: dict[tuple[object, ...], Memory] = {}
    for memory in found:
        mark = memory.moment
        block = _place_of(mark, blocks)
        if block is not None:
            place = (mark.phase, mark.micro_batch, mark.chunk, block)
            before = places.get(place)
            if before is None or memory.bytes > before.bytes:
                places[place] = memory
    return places


def _place_of(mark: Mark, blocks: int) -> str | None:
    """Which block from the front, or from the end, where 0 is behind the last; None of others."""
    if mark.block is None:
        return "whole"
    if mark.block < _ENDS:
        return f"first {mark.block}"
    if mark.block >= blocks - _ENDS:
        return f"last {blocks - mark.block}"
    return None


def _grown(few: Memory, more: Memory, blocks: int) -> Memory:
    """The moment with so many blocks more than `few` has, where `more` has one more."""
    names = few.parts.keys() | more.parts.keys()
    parts = {
        name: few.parts.get(name, 0) + blocks * (more.parts.get(name, 0) - few.parts.get(name, 0))
        for name in names
    }
    return Memory(few.bytes + blocks * (more.bytes - few.bytes), parts, few.moment)
