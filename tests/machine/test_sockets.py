"""Ports that are held until somebody listens at them."""

from __future__ import annotations

import socket

import pytest

from llm_pretrain.machine.sockets import held_port, port_of


def test_a_port_that_is_held_is_for_a_server_that_knows_it() -> None:
    with held_port() as held:
        port = port_of(held)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("", port))
        with (
            socket.create_server(("", port)) as server,
            socket.create_connection(("127.0.0.1", port)),
        ):
            server.accept()[0].close()


def test_the_system_gives_no_port_away_that_is_held() -> None:
    with held_port() as held:
        others = [held_port() for _ in range(500)]
        ports = {port_of(other) for other in (held, *others)}
        for other in others:
            other.close()
    assert len(ports) == 501
