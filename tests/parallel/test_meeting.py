"""The ranks of a job find one another, or are told in time who is missing."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from llm_pretrain.parallel.comm import meeting
from llm_pretrain.parallel.comm.meeting import Address, Gathering, MeetingError, join
from tests.launching import free_port


@pytest.fixture(autouse=True)
def _endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE_CURRENT_ENDPOINT", "127.0.0.1:1234")


def address(port: int, seconds: float = 20.0) -> Address:
    return Address("127.0.0.1", port, time.monotonic() + seconds)


def at_once(*parts: Callable[[], dict[str, Any]]) -> list[dict[str, Any] | str]:
    """What each part gives, or its error's message; all run at the same time."""
    results: list[dict[str, Any] | str] = [""] * len(parts)

    def run(number: int, part: Callable[[], dict[str, Any]]) -> None:
        try:
            results[number] = part()
        except MeetingError as error:
            results[number] = str(error)

    threads = [threading.Thread(target=run, args=entry) for entry in enumerate(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def test_all_learn_where_all_are() -> None:
    port = free_port()
    results = at_once(
        lambda: join(address(port), 2, 3),
        lambda: join(address(port), 1, 3),
        lambda: Gathering(address(port), 3, 7000).hold(),
    )
    assert isinstance(results[0], dict)
    assert results[0] == results[1] == results[2]
    assert results[0]["endpoints"] == ",".join(["127.0.0.1:1234"] * 3)
    assert results[0]["port"] != port


def test_the_missing_are_named_to_those_who_came(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "_SAY_AFTER_SECONDS", 0.1)
    port = free_port()
    results = at_once(
        lambda: join(address(port), 3, 7), lambda: Gathering(address(port, 1.5), 7, 7000).hold()
    )
    assert results[0] == results[1]
    assert "Ranks 1–2, 4–6 of 7 have not started" in str(results[0])
    assert "distributed_timeout" in str(results[0])
    # Nobody waits in silence.
    assert "of 7 have not started yet" in capfd.readouterr().err


def test_a_first_rank_that_never_comes_is_named() -> None:
    port = free_port()
    with pytest.raises(MeetingError, match=rf"Rank 0 of 2 did not answer at 127.0.0.1:{port}"):
        join(address(port, 0.3), 1, 2)


def test_a_first_rank_that_never_answers_is_named() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(MeetingError, match="Rank 0 of 2 did not answer"),
    ):
        join(address(silent.getsockname()[1], 0.5), 1, 2)


def test_a_port_in_use_is_said_with_the_remedy() -> None:
    with (
        socket.create_server(("", 0)) as other,
        pytest.raises(MeetingError, match=r"in use.*--master_port PORT.*MASTER_PORT"),
    ):
        Gathering(address(other.getsockname()[1]), 2, 7000).hold()


def test_two_jobs_at_one_port_are_told_apart() -> None:
    port = free_port()
    results = at_once(
        lambda: Gathering(address(port, 1.5), 3, 7000).hold(),
        lambda: join(address(port), 1, 3),
        lambda: join(address(port), 1, 3),
        lambda: join(address(port), 1, 2),
    )
    told = [result for result in results[1:] if "give each job a port of its own" in str(result)]
    assert len(told) == 2
    assert "Rank 2 of 3" in str(results[0])


def test_a_rank_that_came_and_ended_is_named() -> None:
    port = free_port()

    def come_and_end() -> dict[str, Any]:
        time.sleep(0.3)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            said = {"rank": 1, "size": 3, "endpoint": "127.0.0.1:1"}
            connection.sendall(json.dumps(said).encode() + b"\n")
        time.sleep(0.3)
        return join(address(port), 2, 3)

    results = at_once(lambda: Gathering(address(port), 3, 7000).hold(), come_and_end)
    assert "Rank 1 has ended again" in str(results[0])
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "nonsense", [b"GET / HTTP/1.1\r\n\r\n", b"\n", b"[]\n", b'{"rank": 1}\n', b"\xff\n", b""]
)
def test_whoever_says_something_else_is_dropped(nonsense: bytes) -> None:
    port = free_port()

    def stranger() -> dict[str, Any]:
        time.sleep(0.2)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(nonsense)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
        return join(address(port), 1, 2)

    results = at_once(lambda: Gathering(address(port), 2, 7000).hold(), stranger)
    assert isinstance(results[0], dict)
    assert results[0] == results[1]
