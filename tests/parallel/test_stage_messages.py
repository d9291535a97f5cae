"""Messages between stages keep out of each other's way over NCCL, which tests can't run."""

from __future__ import annotations

from types import SimpleNamespace

import paddle
import pytest

from llm_pretrain.config import Degrees
from llm_pretrain.parallel.comm import collectives, topology
from llm_pretrain.parallel.pipeline.executor import StageMessages
from llm_pretrain.parallel.pipeline.schedules import Place, training_schedule


@pytest.mark.parametrize(
    ("ranks", "chunks"), [(2, 1), (3, 1), (4, 1), (2, 2), (2, 3), (3, 2), (4, 2)]
)
def test_in_a_group_two_ranks_send_in_one_direction(
    monkeypatch: pytest.MonkeyPatch, ranks: int, chunks: int
) -> None:
    """There one queue serves both directions, and they need not agree on its order."""
    monkeypatch.setattr(topology, "_group_with_this_rank", lambda _groups: object())
    whole = SimpleNamespace(ranks=list(range(ranks)))
    degrees = Degrees(1, 1, 1, pipeline=ranks, sep=1, context=1, virtual_pipeline=chunks)
    groups = topology._message_groups([whole.ranks], whole, degrees)
    directions: dict[tuple[object, frozenset[int]], set[tuple[int, int]]] = {}
    for rank in range(ranks):

        def start_send(_tensor, destination, group, rank=rank):
            pair = directions.setdefault((id(group), frozenset((rank, destination))), set())
            pair.add((rank, destination))
            return collectives._Done()

        monkeypatch.setattr(collectives, "start_send", start_send)
        here = topology.Topology(
            degrees, pipeline_rank=rank, pipeline_group=whole, message_groups=groups
        )
        messages = StageMessages(here, hidden_size=1, dtype="float32")
        for instruction in training_schedule(Place(rank, ranks, chunks), 2 * ranks):
            if instruction.step == "send_output":
                messages.send("input", paddle.zeros([1]))
            elif instruction.step == "send_gradient":
                messages.send("gradient", paddle.zeros([1]))
    assert all(len(pair) == 1 for pair in directions.values()), directions
    assert len(directions) == 2 * (ranks if chunks > 1 else ranks - 1)
