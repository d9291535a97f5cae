"""Hidden states and their gradients on their way between the ranks of a pipeline.

Inputs go from each rank to the next and, with several chunks, from the last to the first; gradients
go the other way.
"""

from __future__ import annotations

import paddle
from paddle import Tensor

from llm_pretrain.parallel import collectives
from llm_pretrain.parallel.collectives import Group, Task
from llm_pretrain.parallel.micro_batch import Sequences
from llm_pretrain.parallel.topology import MessageKind, Topology


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

    def receive(self, kind: MessageKind, sequences: Sequences) -> Tensor:
        """What the rank before (of gradients: the rank after) has sent, once it is there."""
        other, group = self._way(kind, self.topology.pipeline_rank, -_STEP[kind])
        shape = [len(sequences.sample_ids), len(sequences.hidden_positions), self.hidden_size]
        return collectives.receive(paddle.empty(shape, self.dtype), other, group)

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
