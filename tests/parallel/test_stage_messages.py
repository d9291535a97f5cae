"""Messages between stages: out of each other's way over NCCL, which tests can't run, and early."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import Tensor, nn

from llm_pretrain.config import Degrees
from llm_pretrain.machine import device
from llm_pretrain.parallel.comm import collectives, topology
from llm_pretrain.parallel.layers.micro_batch import split_batch
from llm_pretrain.parallel.pipeline.executor import Pipeline, StageMessages
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


class Losses(nn.Layer):
    """The last stage of a model."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events

    def forward(self, x_BSH: Tensor, *_: Any) -> Tensor:
        self.events.append("forward")
        return x_BSH.sum(-1)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cpu", ["receive", "forward"] * 3),
        # The first comes alone: with it the ranks meet.
        ("gpu", ["receive", "begin", "forward", "begin", "forward", "forward"]),
    ],
)
def test_an_accelerator_receives_ahead(
    monkeypatch: pytest.MonkeyPatch, kind: str, expected: list[str]
) -> None:
    events: list[str] = []

    def start_receive(tensor: Tensor, _source: int, _group: object, *, asynchronous: bool) -> Any:
        events.append("begin" if asynchronous else "receive")
        return collectives.Arriving(tensor.zero_(), collectives._Done())

    monkeypatch.setattr(device, "kind", lambda: kind)
    monkeypatch.setattr(collectives, "start_receive", start_receive)
    monkeypatch.setattr(collectives, "broadcast", lambda *_: None)
    group = SimpleNamespace(ranks=[0, 1])
    here = topology.Topology(
        replace(topology.current().degrees, pipeline=2),
        pipeline_rank=1,
        pipeline_group=group,
        message_groups={("input", False): group},
    )
    tokens = np.zeros([3, 4], np.int64)
    batches = split_batch(tokens, tokens, 1, ignored_label=-100, copy=paddle.to_tensor)
    pipeline = Pipeline(Losses(events), here, hidden_size=2, activation_dtype="float32")
    assert pipeline.evaluate(batches).item() == 0.0
    assert events == expected
