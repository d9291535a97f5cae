"""A step of training or evaluation through the ranks of a pipeline, as its schedule says.

One rank alone runs the same schedule without messages: plain gradient accumulation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import paddle
from paddle import Tensor, nn

from llm_pretrain.ops import internals
from llm_pretrain.parallel.comm import collectives, progress
from llm_pretrain.parallel.comm.collectives import Arriving, Group, Task
from llm_pretrain.parallel.comm.topology import MessageKind, Topology
from llm_pretrain.parallel.layers.micro_batch import MicroBatch, Sequences
from llm_pretrain.parallel.pipeline.schedules import (
    Instruction,
    Pass,
    Place,
    evaluation_schedule,
    training_schedule,
)


class Pipeline:
    """Runs this rank's chunks of a model.

    Args:
        stage: called with (x, sequences, labels, chunk); the model's first chunk turns tokens
            [B, S] into hidden states [B, S, H], its last turns them, with labels, into losses
            [B, S].
        hidden_size, activation_dtype: of the hidden states that pass between ranks.
    """

    def __init__(
        self,
        stage: nn.Layer,
        topology: Topology,
        *,
        hidden_size: int,
        activation_dtype: str,
    ) -> None:
        self.stage = stage
        self.topology = topology
        self.place = Place(
            topology.pipeline_rank, topology.degrees.pipeline, topology.degrees.virtual_pipeline
        )
        self.messages = StageMessages(topology, hidden_size=hidden_size, dtype=activation_dtype)

    def train(self, micro_batches: Sequence[MicroBatch], loss_factor: float) -> Tensor:
        """Accumulate the gradients of `loss_factor` × the losses; return the sum of the losses.

        The sum is float32 [1] on every rank, without the factor.
        """
        self.stage.train()
        schedule = training_schedule(self.place, len(micro_batches))
        return self._run(schedule, micro_batches, loss_factor)

    @paddle.no_grad()
    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """The sum of the losses, float32 [1], on every rank."""
        self.stage.eval()
        schedule = evaluation_schedule(self.place, len(micro_batches))
        return self._run(schedule, micro_batches, 1.0)

    def _run(
        self, schedule: list[Instruction], micro_batches: Sequence[MicroBatch], loss_factor: float
    ) -> Tensor:
        run = ScheduleRun(self, schedule, micro_batches, loss_factor)
        for instruction in schedule:
            run.do(instruction)
        self.messages.finish()
        group = self.topology.pipeline_group
        if group is not None:
            collectives.broadcast(run.loss_sum, group.ranks[-1], group)
        return run.loss_sum


class ScheduleRun:
    """One run through a schedule: what is held between its instructions, each a method here."""

    def __init__(
        self,
        pipeline: Pipeline,
        schedule: Sequence[Instruction],
        micro_batches: Sequence[MicroBatch],
        loss_factor: float,
    ) -> None:
        self.pipeline = pipeline
        self.expected: dict[MessageKind, deque[int]] = {
            kind: deque(each.micro_batch for each in schedule if each.step == f"receive_{kind}")
            for kind in _STEP
        }
        self.coming: dict[MessageKind, Arriving] = {}
        self.micro_batches = micro_batches
        self.loss_factor = loss_factor
        self.is_training = pipeline.stage.training
        self.inputs: dict[Pass, Tensor] = {}
        self.outputs: dict[Pass, Tensor] = {}
        self.gradients: dict[Pass, Tensor] = {}
        self.loss_sum = paddle.zeros([1], "float32")

    def do(self, instruction: Instruction) -> None:
        progress.at(f"{instruction.step} of micro-batch {instruction.micro_batch}")
        getattr(self, instruction.step)((instruction.chunk, instruction.micro_batch))

    def receive_input(self, at: Pass) -> None:
        self.inputs[at] = self._received("input")
        self.inputs[at].stop_gradient = False

    def forward(self, at: Pass) -> None:
        chunk, number = at
        batch = self.micro_batches[number]
        x = batch.tokens if self.pipeline.place.is_first(chunk) else self.inputs[at]
        is_last = self.pipeline.place.is_last(chunk)
        labels = batch.labels if is_last else None
        output = self.pipeline.stage(x, batch.sequences, labels, chunk)
        if is_last:
            loss = output.sum() / batch.label_count
            self.loss_sum += loss.detach().astype("float32").reshape([1])
            output = loss * self.loss_factor
        self.outputs[at] = output
        if not self.is_training:
            self.inputs.pop(at, None)

    def send_output(self, at: Pass) -> None:
        output = self.outputs.pop(at)
        self.pipeline.messages.send("input", output.detach())
        if self.is_training:
            self.outputs[at] = _without_values(output)

    def receive_gradient(self, at: Pass) -> None:
        self.gradients[at] = self._received("gradient")

    def backward(self, at: Pass) -> None:
        paddle.autograd.backward([self.outputs.pop(at)], [self.gradients.pop(at, None)])

    def send_gradient(self, at: Pass) -> None:
        self.pipeline.messages.send("gradient", self.inputs.pop(at).grad)

    def _received(self, kind: MessageKind) -> Tensor:
        coming = self.coming.pop(kind, None) or self._start_receive(kind, asynchronous=False)
        tensor = coming.wait()
        # Not before the first has come: two ranks meet in a group at its first message, and wait.
        if self.expected[kind] and collectives.overlap():
            self.coming[kind] = self._start_receive(kind)
        return tensor

    def _start_receive(self, kind: MessageKind, *, asynchronous: bool = True) -> Arriving:
        sequences = self.micro_batches[self.expected[kind].popleft()].sequences
        return self.pipeline.messages.start_receive(kind, sequences, asynchronous=asynchronous)


def _without_values(output: Tensor) -> Tensor:
    """Where the backward pass of `output` begins, for the cost of no memory.

    Of a copy, since operators may have kept `output` itself for their gradients.
    """
    end = output.clone()
    internals.free(end)
    return end


class StageMessages:
    """This rank's messages; those of one kind between two ranks arrive in the order of sending.

    Args:
        hidden_size, dtype: of the hidden states [B, S, H].
    """

    def __init__(self, topology: Topology, *, hidden_size: int, dtype: str) -> None:
        self.topology = topology
        self.hidden_size = hidden_size
        self.dtype = dtype
        self.leaving: list[tuple[Task, Tensor]] = []

    def send(self, kind: MessageKind, tensor: Tensor) -> None:
        """Begin to send; `tensor` may not be changed any more."""
        own = self.topology.pipeline_rank
        other, group = self._way(kind, own, _STEP[kind])
        self.leaving = [(task, held) for task, held in self.leaving if not task.is_completed()]
        self.leaving.append((collectives.start_send(tensor, other, group), tensor))

    def start_receive(
        self, kind: MessageKind, sequences: Sequences, *, asynchronous: bool
    ) -> Arriving:
        """What the rank before (of gradients: the rank after) sends, on its way."""
        other, group = self._way(kind, self.topology.pipeline_rank, -_STEP[kind])
        shape = [len(sequences.sample_ids), len(sequences.hidden_positions), self.hidden_size]
        tensor = paddle.empty(shape, self.dtype)
        return collectives.start_receive(tensor, other, group, asynchronous=asynchronous)

    def finish(self) -> None:
        """Wait until everything has left."""
        for task, _ in self.leaving:
            task.wait()
        self.leaving.clear()

    def _way(self, kind: MessageKind, rank: int, step: int) -> tuple[int, Group]:
        """The global rank that is `step` further round, and the group for messages with it."""
        ranks = self.topology.pipeline_group.ranks
        is_wrapped = not 0 <= rank + step < len(ranks)
        return ranks[(rank + step) % len(ranks)], self.topology.message_groups[kind, is_wrapped]


_STEP: dict[MessageKind, int] = {"input": +1, "gradient": -1}
