"""Memory and speed of a run by a program's model, on a machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llm_pretrain.config import ConfigError
from llm_pretrain.planning.allocator import MemoryPeak, replay
from llm_pretrain.planning.machines import Machine
from llm_pretrain.planning.step import StageTime, stage_time, step_time
from llm_pretrain.planning.time import message_seconds, sections, spans_of, timeline
from llm_pretrain.planning.trace import Message
from peer_traces import llm_foundry, megatron, paddlenlp
from peer_traces.peer_run import PeerRun
from peer_traces.steps import Step, boundary_size, record

PROGRAMS: Mapping[str, Callable[[PeerRun], Step]] = {
    "paddlenlp": paddlenlp.Step,
    "megatron": megatron.Step,
    "llm_foundry": llm_foundry.Step,
}
MIB = 2**20


@dataclass(frozen=True)
class Prediction:
    """Of a step in its steady state.

    Attributes:
        tokens_per_second_per_device: of the whole job over its devices.
        seconds: of a step, by part, of the stage that works longest.
        memory: the peaks of the first stage, which holds the most micro-batches.
    """

    tokens_per_second_per_device: float
    seconds: Mapping[str, float]
    memory: MemoryPeak | None

    @property
    def step_seconds(self) -> float:
        """Of a step."""
        return sum(self.seconds.values())

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        content: dict[str, Any] = {
            "tokens_per_second_per_device": round(self.tokens_per_second_per_device, 2),
            "step_seconds": round(self.step_seconds, 4),
            "seconds": {part: round(value, 4) for part, value in self.seconds.items()},
        }
        if self.memory is not None:
            content |= {
                "max_memory_allocated_mib": round(self.memory.allocated / MIB, 1),
                "max_memory_reserved_mib": round(self.memory.reserved / MIB, 1),
                "memory_mib": {
                    part: round(size / MIB, 1) for part, size in self.memory.parts.items()
                },
            }
        return content


def predict(
    program: str, peer: PeerRun, machine: Machine, *, with_memory: bool = True
) -> Prediction:
    """Both, or the speed alone."""
    make = PROGRAMS[program]
    if problems := _not_modelled(program, peer):
        raise ConfigError(problems)
    stages = stage_times(make, peer, machine)
    spans = spans_of(
        peer.degrees, peer.run.training.hybrid_parallel_topo_order, machine.devices_per_node
    )
    message = Message("send", boundary_size(peer), "pipeline", peer.degrees.pipeline)
    hop = message_seconds(message, spans["pipeline"], machine)
    time = step_time(stages, peer.chunks, peer.micro_batches, hop)
    speed = peer.tokens_per_step / time.total / peer.degrees.world_size
    memory = memory_of(make(peer)) if with_memory else None
    return Prediction(speed, time.seconds, memory)


def _not_modelled(program: str, peer: PeerRun) -> list[str]:
    """What a run asks for that the program's model hasn't."""
    degrees = peer.degrees
    asks = {
        "sep_parallel_degree and context_parallel_degree": degrees.sequence > 1,
        "sharding stage3": peer.stage == 3 and program != "llm_foundry",
        "sharding stage2": peer.stage == 2 and program == "megatron",
        "sharding stage1": peer.stage == 1 and program == "llm_foundry",
        "tensor_parallel_degree": degrees.tensor > 1 and program == "llm_foundry",
        "pipeline_parallel_degree": degrees.pipeline > 1 and program == "llm_foundry",
        "grouped key and value heads": program != "paddlenlp"
        and peer.model.num_key_value_heads != peer.model.num_attention_heads,
        "a gated feed-forward layer": program != "paddlenlp" and peer.model.is_gated,
        "recompute_granularity full_attn": peer.recompute == "full_attn" and program != "paddlenlp",
        "recompute_granularity core_attn": peer.recompute == "core_attn"
        and program == "llm_foundry",
        "no_recompute_layers": bool(peer.run.training.no_recompute_layers),
    }
    return [f"{key}: the model of {program} hasn't it" for key, asked in asks.items() if asked]


def memory_of(step: Step, *, steps: int = 2) -> MemoryPeak:
    """The peaks; from the second step on, they stay."""
    peer = step.peer
    in_flight = max(3, peer.degrees.pipeline * peer.chunks + 1)
    count = min(peer.micro_batches, in_flight)
    if peer.chunks > 1:
        count = -(-count // peer.degrees.pipeline) * peer.degrees.pipeline
    events = record(step, micro_batches=count, steps=steps)
    return replay(events, read_elsewhere=step.read_elsewhere, meets_at="forward")


def stage_times(
    make: Callable[[PeerRun], Step], peer: PeerRun, machine: Machine
) -> Sequence[StageTime]:
    """Every stage's; those between the ends that have as many layers are alike."""
    spans = spans_of(
        peer.degrees, peer.run.training.hybrid_parallel_topo_order, machine.devices_per_node
    )
    known: dict[tuple[bool, bool, int], StageTime] = {}
    found = []
    for rank in range(peer.degrees.pipeline):
        of_stage = replace(peer, stage_of_pipeline=rank)
        layers = sum(len(of_stage.layers(chunk)) for chunk in range(peer.chunks))
        key = (rank == 0, rank == peer.degrees.pipeline - 1, layers)
        if key not in known:
            count = min(peer.micro_batches, 3)
            if peer.chunks > 1:
                count = peer.degrees.pipeline
            events = record(make(of_stage), micro_batches=count)
            known[key] = stage_time(list(sections(timeline(events, machine), spans, machine)))
        found.append(known[key])
    return found
