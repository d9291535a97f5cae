"""Events reach a program and a URL, in one form, and nothing waits for them."""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.monitor import alerts as module
from llm_pretrain.monitor.alerts import Alerts

Server = Callable[..., str]


@pytest.fixture
def received() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def serve(
    received: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., str]]:
    """Start a server on loopback that answers so; its URL."""
    monkeypatch.setenv("no_proxy", "*")
    servers: list[HTTPServer] = []

    def start(status: int = 200, location: str = "", delay: float = 0.0) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.headers["Content-Type"] == "application/json"
                received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                time.sleep(delay)
                self.send_response(status)
                if location:
                    self.send_header("Location", location)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/hook?secret=1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def warnings_of(alerts: Alerts) -> list[str]:
    said: list[str] = []
    alerts.say = said.append
    return said


def python(code: str, *words: object) -> str:
    return shlex.join([sys.executable, "-c", code, *map(str, words)])


def test_a_program_and_a_url_get_the_same_event(
    tmp_path: Path, serve: Server, received: list[dict[str, Any]]
) -> None:
    program = "import sys, shutil; shutil.copyfileobj(sys.stdin, open(sys.argv[1], 'a'))"
    alerts = Alerts(tmp_path, python(program, tmp_path / "a file; $HOME"), serve())
    said = warnings_of(alerts)
    alerts.global_step = 7
    fields = {"loss": math.inf, "norm": np.float32(2.5), "steps": (1, 2), "path": tmp_path}
    alerts.send("spike", "The loss leapt: 损失", **fields)
    alerts.close()
    assert said == []
    (event,) = received
    assert json.loads((tmp_path / "a file; $HOME").read_text()) == event
    assert abs(event.pop("time") - time.time()) < 60
    assert event == {
        "event": "spike",
        "run": str(tmp_path),
        "host": os.uname().nodename,
        "global_step": 7,
        "message": "The loss leapt: 损失",
        "loss": "inf",
        "norm": 2.5,
        "steps": [1, 2],
        "path": str(tmp_path),
    }


def test_events_keep_their_order_and_are_not_waited_for(
    tmp_path: Path, serve: Server, received: list[dict[str, Any]]
) -> None:
    alerts = Alerts(tmp_path, url=serve(delay=0.2))
    began = time.monotonic()
    for number in range(4):
        alerts.send("spike", str(number))
    assert time.monotonic() - began < 0.2
    alerts.close()
    assert [event["message"] for event in received] == ["0", "1", "2", "3"]
    alerts.send("end", "and one more after the end")
    alerts.close()
    assert len(received) == 5


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("/no/such/program --flag", "/no/such/program: No such file or directory"),
        (
            python("import sys; print('noise'); sys.exit('it is broken\\x1b[2J')"),
            f"{sys.executable} ended with status 1 (it is broken [2J)",
        ),
        (
            python("import os; os.kill(os.getpid(), 9)"),
            f"{sys.executable} was ended by signal 9",
        ),
    ],
)
def test_a_program_that_fails_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str, reason: str
) -> None:
    alerts = Alerts(tmp_path, command)
    said = warnings_of(alerts)
    alerts.send("end", "x" * 100_000)
    alerts.close()
    assert said == [f"warning: alert_command was not told of an event (end): {reason}."]
    assert capfd.readouterr() == ("", "")


def test_a_program_without_end_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_PER_EVENT", 0.5)
    number = tmp_path / "child"
    alerts = Alerts(tmp_path, f"sh -c 'sleep 1000 & echo $! > {number}; wait'")
    said = warnings_of(alerts)
    alerts.send("end", "")
    alerts.close()
    assert said == [
        "warning: alert_command was not told of an event (end): sh was not done in 0.5 s."
    ]
    process = Path(f"/proc/{number.read_text().strip()}/stat")
    deadline = time.monotonic() + 5
    while process.exists() and process.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"status": 500}, "127.0.0.1 answered with status 500"),
        ({"status": 302, "location": "file:///etc/passwd"}, "127.0.0.1 answered with status 302"),
        ({"delay": 2.0}, "127.0.0.1: timed out"),
    ],
)
def test_a_server_that_fails_is_one_line_without_the_secret(
    tmp_path: Path,
    serve: Server,
    monkeypatch: pytest.MonkeyPatch,
    answer: dict[str, Any],
    reason: str,
) -> None:
    monkeypatch.setattr(module, "SECONDS_PER_EVENT", 0.5)
    alerts = Alerts(tmp_path, url=serve(**answer))
    said = warnings_of(alerts)
    alerts.send("spike", "")
    alerts.close()
    assert said == [f"warning: alert_url was not told of an event (spike): {reason}."]


def test_a_server_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    alerts = Alerts(tmp_path, url="http://127.0.0.1:9/")
    said = warnings_of(alerts)
    alerts.send("spike", "")
    alerts.close()
    (line,) = said
    assert "Connection refused" in line


def test_one_of_the_ranks_tells_a_failure(
    tmp_path: Path, serve: Server, received: list[dict[str, Any]]
) -> None:
    url = serve()
    ranks = [Alerts(tmp_path, url=url) for _ in range(3)]
    for _ in range(2):
        ranks[0].begin()
        for alerts in reversed(ranks):
            alerts.failure("Rank 2 failed first")
    assert [event["event"] for event in received] == ["failure"] * 2


def test_a_program_tells_a_failure_for_a_process_that_is_gone(
    tmp_path: Path, serve: Server, received: list[dict[str, Any]]
) -> None:
    settings = Alerts(tmp_path, url=serve()).by_program()
    assert settings is not None
    command = [sys.executable, "-I", settings["program"]]
    for _ in range(2):
        line = json.dumps({**settings, "message": "lost rank 1"}) + "\n"
        subprocess.run(command, input=line, text=True, check=True, timeout=60)
    (event,) = received
    assert event["event"] == "failure"
    assert event["message"] == "lost rank 1"
    assert event["global_step"] is None
    assert Alerts(tmp_path).by_program() is None


def test_a_program_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    for command, count in (("no-such-program-at-all --flag", 1), ("cat", 0)):
        alerts = Alerts(tmp_path, command)
        said = warnings_of(alerts)
        alerts.begin()
        assert len(said) == count


def test_an_outlet_does_not_keep_a_finished_process(tmp_path: Path) -> None:
    code = (
        "from llm_pretrain.monitor.alerts import Alerts\n"
        "import sys, time\n"
        "alerts = Alerts(sys.argv[1], 'sleep 8')\n"
        "alerts.send('end', '')\n"
        "time.sleep(0.2)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path])
    assert process.wait(6) == 0
