"""This program's own prediction: the trace is the program's, not a model of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llm_pretrain.config import RunConfig
from llm_pretrain.planning.allocator import replay
from llm_pretrain.planning.layouts import stage_rank
from llm_pretrain.planning.machines import load_machine
from llm_pretrain.planning.program import trace_step
from llm_pretrain.planning.step import StageTime, stage_time, step_time
from llm_pretrain.planning.time import message_seconds, sections, spans_of, timeline
from llm_pretrain.planning.trace import Event, Message
from peer_traces.peer_run import PeerRun, read_run
from peer_traces.prediction import Prediction
from peer_traces.steps import boundary_size


def predict_ours(words: Sequence[str], gpu: str, gpus: int) -> Prediction:
    """Memory of the first stage and speed, of a configuration on a machine."""
    peer, machine = read_run(words, gpus), load_machine(gpu)
    degrees = peer.degrees
    order = peer.run.training.hybrid_parallel_topo_order
    spans = spans_of(degrees, order, machine.devices_per_node)
    known: dict[tuple[bool, bool, int], StageTime] = {}
    stages = []
    for stage in range(degrees.pipeline):
        here = replace(peer, stage_of_pipeline=stage)
        layers = sum(len(here.layers(chunk)) for chunk in range(peer.chunks))
        key = (stage == 0, stage == degrees.pipeline - 1, layers)
        if key not in known:
            events = _trace(peer, stage, micro_batches=3, steps=1)
            known[key] = stage_time(list(sections(timeline(events, machine), spans, machine)))
        stages.append(known[key])
    message = Message("send", boundary_size(peer), "pipeline", degrees.pipeline)
    hop = message_seconds(message, spans["pipeline"], machine)
    time = step_time(stages, peer.chunks, peer.micro_batches, hop)
    speed = peer.tokens_per_step / time.total / degrees.world_size
    fullest = _trace(peer, 0, micro_batches=degrees.pipeline + 2, steps=2)
    return Prediction(speed, time.seconds, replay(fullest))


def _trace(peer: PeerRun, stage: int, *, micro_batches: int, steps: int) -> list[Event]:
    ranks = peer.degrees.pipeline
    count = 2 * ranks if peer.chunks > 1 else min(peer.micro_batches, micro_batches)
    rank = stage_rank(peer.degrees, peer.run.training.hybrid_parallel_topo_order, stage)
    run = _shortened(peer.run, count)
    return trace_step(run, peer.model, peer.degrees, rank, device="gpu", steps=steps).events


def _shortened(run: RunConfig, micro_batches: int) -> RunConfig:
    training = run.training.model_copy(update={"gradient_accumulation_steps": micro_batches})
    return replace(run, training=training)
