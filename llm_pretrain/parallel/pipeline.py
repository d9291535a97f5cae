"""A step of training or evaluation through the ranks of a pipeline, as its schedule says.

One rank alone runs the same schedule without messages: plain gradient accumulation.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn

from llm_pretrain.parallel import collectives
from llm_pretrain.parallel.micro_batch import MicroBatch
from llm_pretrain.parallel.schedules import (
    Instruction,
    Pass,
    Place,
    evaluation_schedule,
    training_schedule,
)
from llm_pretrain.parallel.stage_messages import StageMessages
from llm_pretrain.parallel.topology import MessageKind, Topology


class Pipeline:
    """Runs this rank's chunks of a model.

    Args:
        stage: called with (x, sequences, chunk, labels); the model's first chunk turns tokens
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
        run = _Run(self, micro_batches, loss_factor)
        for instruction in schedule:
            run.do(instruction)
        self.messages.finish()
        group = self.topology.pipeline_group
        if group is not None:
            collectives.broadcast(run.loss_sum, group.ranks[-1], group)
        return run.loss_sum


class _Run:
    """One run through a schedule: what is held between its instructions, each a method here."""

    def __init__(
        self, pipeline: Pipeline, micro_batches: Sequence[MicroBatch], loss_factor: float
    ) -> None:
        self.pipeline = pipeline
        self.micro_batches = micro_batches
        self.loss_factor = loss_factor
        self.is_training = pipeline.stage.training
        self.inputs: dict[Pass, Tensor] = {}
        self.outputs: dict[Pass, Tensor] = {}
        self.gradients: dict[Pass, Tensor] = {}
        self.loss_sum = paddle.zeros([1], "float32")

    def do(self, instruction: Instruction) -> None:
        getattr(self, instruction.step)((instruction.chunk, instruction.micro_batch))

    def receive_input(self, at: Pass) -> None:
        self.inputs[at] = self._received("input", at)
        self.inputs[at].stop_gradient = False

    def forward(self, at: Pass) -> None:
        chunk, number = at
        batch = self.micro_batches[number]
        x = batch.tokens if self.pipeline.place.is_first(chunk) else self.inputs[at]
        is_last = self.pipeline.place.is_last(chunk)
        labels = batch.labels if is_last else None
        output = self.pipeline.stage(x, batch.sequences, chunk, labels)
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
        self.gradients[at] = self._received("gradient", at)

    def backward(self, at: Pass) -> None:
        paddle.autograd.backward([self.outputs.pop(at)], [self.gradients.pop(at, None)])

    def send_gradient(self, at: Pass) -> None:
        self.pipeline.messages.send("gradient", self.inputs.pop(at).grad)

    def _received(self, kind: MessageKind, at: Pass) -> Tensor:
        return self.pipeline.messages.receive(kind, self.micro_batches[at[1]].sequences)


def _without_values(output: Tensor) -> Tensor:
    """Where the backward pass of `output` begins, for the cost of no memory.

    Of a copy, since operators may have kept `output` itself for their gradients.
    """
    end = output.clone()
    end._clear_data()
    return end
