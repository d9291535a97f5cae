"""Steps of a program on one stage of its pipeline, in the order of its schedule."""

from __future__ import annotations

from typing import Protocol

from llm_pretrain.parallel.pipeline.schedules import Place, training_schedule
from llm_pretrain.planning.trace import Event, Traffic
from peer_traces.peer_run import PeerRun
from peer_traces.tape import Backward, Tape, Value


class Step(Protocol):
    """A model of a program.

    Attributes:
        read_elsewhere: numbers of allocations that another stream reads when they are let go.
    """

    peer: PeerRun
    tape: Tape
    read_elsewhere: set[int]

    def start(self) -> None:
        """What lives before the first step."""

    def forward(self, chunk: int, received: Value | None) -> Value:
        """A chunk's pass, from the embedding where nothing is received, to the loss or to what is
        sent."""

    def update(self) -> None:
        """What is done once a step, after the last pass."""


def record(step: Step, *, micro_batches: int, steps: int = 1) -> list[Event]:
    """The events of a start and of `steps` steps of `micro_batches`."""
    step.start()
    for _ in range(steps):
        _step(step, micro_batches)
        step.update()
    return step.tape.events


def _step(step: Step, micro_batches: int) -> None:
    peer, tape = step.peer, step.tape
    boundary = boundary_size(peer)
    place = Place(peer.stage_of_pipeline, peer.degrees.pipeline, peer.chunks)
    passes: dict[tuple[int, int], list[tuple[int, Backward]]] = {}
    outputs: dict[tuple[int, int], Value] = {}
    for instruction in training_schedule(place, micro_batches):
        key = (instruction.chunk, instruction.micro_batch)
        if instruction.step == "forward":
            tape.mark("forward", instruction.micro_batch, instruction.chunk)
            inputs = [tape.value(8 * peer.tokens, "other") for _ in range(2)]
            received = None
            if not peer.is_first(instruction.chunk):
                received = tape.value(boundary, "communication")
                received.needs_gradient = True
            output = step.forward(instruction.chunk, received)
            # Of what is sent, the program keeps the tensor until its gradient has come.
            outputs[key] = output
            passes[key] = tape.take_nodes()
            del output, received, inputs
        elif instruction.step == "backward":
            tape.mark("backward", instruction.micro_batch, instruction.chunk)
            size = outputs[key].size
            gradient = tape.value(size, "communication")
            if peer.is_last(instruction.chunk):
                tape.events.append(Traffic("scale", size))
            del outputs[key]
            tape.play_backward(passes.pop(key), gradient)
            del gradient


def boundary_size(peer: PeerRun) -> int:
    """Bytes of what goes from one stage to the next."""
    size = 2 * peer.tokens * peer.model.hidden_size
    if peer.run.training.sequence_parallel:
        size //= peer.degrees.tensor
    return size
