"""The collectives that Paddle's Gloo lacks or gets wrong, on four processes."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llm_pretrain.parallel.comm import gloo_groups
from tests.launching import run_job

WORKER = Path(__file__).with_name("gloo_worker.py")


def results(directory: Path, late: float = 0.0) -> list[dict[str, Any]]:
    run_job(WORKER, directory, late, processes=4, log_dir=directory / "log")
    return [json.loads((directory / f"{rank}.json").read_text()) for rank in range(4)]


def test_collectives_of_every_dtype(tmp_path: Path) -> None:
    for rank, found in enumerate(results(tmp_path)):
        stage, share = divmod(rank, 2)
        assert found["place"] == [stage, share]
        assert found["held back"] == [True, 0]
        for dtype in ("float32", "bfloat16", "float16"):
            assert found[f"sum {dtype}"] == [3.0, -6.0, 9.0, 1.5]
            assert found[f"reduce_scatter {dtype}"] == ([3.0, -6.0] if share == 0 else [9.0, 1.5])
            gathered = [1.0, -2.0, 3.0, 0.5, 2.0, -4.0, 6.0, 1.0]
            assert found[f"all_gather {dtype}"] == gathered
        first = 2 * stage
        column = [10, 20][share]
        assert found["all_to_all"] == [[first, column], [first + 1, column]]
        gathered = [first, first, first + 1, first + 1]
        assert found["asynchronous"] == [[2.0, 4.0], gathered]
        assert found["received"] == ([rank + 2.0] if stage == 0 else [rank - 2.0, rank + 8.0])
        assert found["texts"] == ["é" * (share + 1), "é" * (share + 3)]


@pytest.mark.slow
def test_a_barrier_waits_longer_than_an_operation_may(tmp_path: Path) -> None:
    """Any other operation over Gloo gives up after 30 s."""
    assert len(results(tmp_path, late=40.0)) == 4


class Store:
    """Where processes meet."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.values[key]

    def add(self, key: str, amount: int) -> int:
        number = int(self.values.get(key, b"0")) + amount
        self.set(key, str(number))
        return number


def test_every_pair_of_ranks_has_a_number_that_both_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process Paddle takes each number once, however many groups there are."""
    formed: dict[int, list[int]] = {0: [], 1: []}

    def create(_: Any, rank: int, size: int, number: int) -> SimpleNamespace:
        if size == 2:
            formed[rank].append(number)
        return SimpleNamespace(rank=lambda: rank)

    monkeypatch.setattr(gloo_groups, "_create_group", create)
    monkeypatch.setattr(gloo_groups.shared_memory, "join", lambda *_: None)
    monkeypatch.setattr(gloo_groups, "wait_until_listening", lambda *_: None)
    monkeypatch.setattr(gloo_groups.Groups, "_opened", lambda *_, **__: None)
    monkeypatch.setenv("PADDLE_CURRENT_ENDPOINT", "here:1")
    store, ranks = Store(), [gloo_groups.Groups(1), gloo_groups.Groups(1)]
    for group_id in range(100):
        first, second = (
            groups.create(store, rank, 3, group_id) for rank, groups in enumerate(ranks)
        )
        ranks[0].sender(first, 1)()
        ranks[1].receiver(second, 0)
    assert formed[0] == formed[1]
    assert len(set(formed[0])) == 100


def test_the_port_of_a_pair_is_kept_from_the_moment_that_it_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another store of the job could have it otherwise, and Paddle would abort this process."""
    monkeypatch.setattr(gloo_groups, "_create_group", lambda *_: SimpleNamespace(rank=lambda: 0))
    monkeypatch.setattr(gloo_groups.shared_memory, "join", lambda *_: None)
    monkeypatch.setattr(gloo_groups.Groups, "_opened", lambda *_, **__: None)
    monkeypatch.setenv("PADDLE_CURRENT_ENDPOINT", "here:1")
    store, groups = Store(), gloo_groups.Groups(1)
    form = groups.sender(groups.create(store, 0, 3), 1)
    port = int(store.get("gloo/0/0/1").decode().rpartition(":")[2])
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", port))
    form()
    with socket.socket() as other:
        other.bind(("", port))
