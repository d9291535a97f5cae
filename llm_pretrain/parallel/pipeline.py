"""A step of training or evaluation through the stages of a pipeline, one forward, one backward.

The schedule is a list of instructions, made before anything runs (Narayanan et al.,
arXiv:2104.04473, fig. 4): a stage first runs as many micro-batches forward as stages follow it,
then alternates, then drains. A stage receives its next input before it sends a gradient back, so
that neighbours never wait for each other even where sending blocks. One stage alone is the same
schedule without messages: plain gradient accumulation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import paddle
from paddle import Tensor, nn

from llm_pretrain.parallel import collectives
from llm_pretrain.parallel.micro_batch import MicroBatch
from llm_pretrain.parallel.topology import Topology

Step = Literal[
    "receive_input", "forward", "send_output", "receive_gradient", "backward", "send_gradient"
]


@dataclass(frozen=True)
class Instruction:
    step: Step
    micro_batch: int


def training_schedule(stage: int, stages: int, micro_batches: int) -> list[Instruction]:
    """What `stage` does, in order, to run `micro_batches` forward and backward."""
    is_first, is_last = stage == 0, stage == stages - 1
    schedule: list[Instruction] = []

    def add(step: Step, micro_batch: int) -> None:
        skipped = {
            "receive_input": is_first,
            "send_gradient": is_first,
            "send_output": is_last,
            "receive_gradient": is_last,
        }
        if not skipped.get(step, False):
            schedule.append(Instruction(step, micro_batch))

    warm_up = min(stages - 1 - stage, micro_batches)
    for micro_batch in range(warm_up):
        add("receive_input", micro_batch)
        add("forward", micro_batch)
        add("send_output", micro_batch)
    if warm_up < micro_batches:
        add("receive_input", warm_up)
    for done in range(micro_batches - warm_up):
        ahead = done + warm_up
        add("forward", ahead)
        add("send_output", ahead)
        add("receive_gradient", done)
        add("backward", done)
        if ahead + 1 < micro_batches:
            add("receive_input", ahead + 1)
        add("send_gradient", done)
    for micro_batch in range(micro_batches - warm_up, micro_batches):
        add("receive_gradient", micro_batch)
        add("backward", micro_batch)
        add("send_gradient", micro_batch)
    return schedule


def evaluation_schedule(stage: int, stages: int, micro_batches: int) -> list[Instruction]:
    """What `stage` does, in order, to run `micro_batches` forward only."""
    schedule: list[Instruction] = []
    for micro_batch in range(micro_batches):
        if stage > 0:
            schedule.append(Instruction("receive_input", micro_batch))
        schedule.append(Instruction("forward", micro_batch))
        if stage < stages - 1:
            schedule.append(Instruction("send_output", micro_batch))
    return schedule


class Pipeline:
    """Runs this rank's stage of a model.

    Args:
        stage: tokens [B, S] to hidden states on the first stage, hidden states to logits on the
            last; hidden states [B, S, H] between.
        loss: logits, labels and their count to the loss of a micro-batch.
        hidden_size, activation_dtype: of the hidden states that pass between stages.
    """

    def __init__(
        self,
        stage: nn.Layer,
        loss: Callable[[Tensor, Tensor, int], Tensor],
        topology: Topology,
        *,
        hidden_size: int,
        activation_dtype: str,
    ) -> None:
        self.stage = stage
        self.loss = loss
        self.topology = topology
        self.hidden_size = hidden_size
        self.activation_dtype = activation_dtype

    def train(self, micro_batches: Sequence[MicroBatch], loss_factor: float) -> Tensor:
        """Accumulate the gradients of `loss_factor` × the losses; return the sum of the losses.

        The sum is float32 [1] on every stage, without the factor.
        """
        self.stage.train()
        layout = self.topology
        schedule = training_schedule(
            layout.pipeline_rank, layout.degrees.pipeline, len(micro_batches)
        )
        return self._run(schedule, micro_batches, loss_factor)

    @paddle.no_grad()
    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """The sum of the losses, float32 [1], on every stage."""
        self.stage.eval()
        layout = self.topology
        schedule = evaluation_schedule(
            layout.pipeline_rank, layout.degrees.pipeline, len(micro_batches)
        )
        return self._run(schedule, micro_batches, 1.0)

    def _run(
        self, schedule: list[Instruction], micro_batches: Sequence[MicroBatch], loss_factor: float
    ) -> Tensor:
        layout = self.topology
        is_training = self.stage.training
        inputs: dict[int, Tensor] = {}
        outputs: dict[int, Tensor] = {}
        gradients: dict[int, Tensor] = {}
        total = paddle.zeros([1], "float32")
        for instruction in schedule:
            index = instruction.micro_batch
            batch = micro_batches[index]
            if instruction.step == "receive_input":
                inputs[index] = self._receive(batch, -1)
                inputs[index].stop_gradient = False
            elif instruction.step == "forward":
                x = batch.tokens if layout.is_first_stage else inputs[index]
                output = self.stage(x, batch.sequences)
                if not is_training:
                    inputs.pop(index, None)
                if layout.is_last_stage:
                    output = self.loss(output, batch.labels, batch.label_count)
                    total += output.detach().astype("float32").reshape([1])
                    output = output * loss_factor
                if is_training or not layout.is_last_stage:
                    outputs[index] = output
            elif instruction.step == "send_output":
                output = outputs[index] if is_training else outputs.pop(index)
                self._send(output.detach(), +1)
            elif instruction.step == "receive_gradient":
                gradients[index] = self._receive(batch, +1)
            elif instruction.step == "backward":
                paddle.autograd.backward([outputs.pop(index)], [gradients.pop(index, None)])
            else:
                self._send(inputs.pop(index).grad, -1)
        if layout.pipeline_group is not None:
            last = layout.pipeline_group.ranks[-1]
            collectives.broadcast(total, last, layout.pipeline_group)
        return total

    def _receive(self, batch: MicroBatch, direction: int) -> Tensor:
        shape = [
            len(batch.sequences.sample_ids),
            len(batch.sequences.hidden_positions),
            self.hidden_size,
        ]
        tensor = paddle.empty(shape, self.activation_dtype)
        return collectives.receive(tensor, self._neighbour(direction), self.topology.pipeline_group)

    def _send(self, tensor: Tensor, direction: int) -> None:
        task = collectives.start_send(
            tensor, self._neighbour(direction), self.topology.pipeline_group
        )
        task.wait()

    def _neighbour(self, direction: int) -> int:
        """Global rank of the stage before (-1) or after (+1)."""
        return self.topology.pipeline_group.ranks[self.topology.pipeline_rank + direction]
