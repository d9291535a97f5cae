"""The demo's commands get its signals once, may finish what they do, and are seen doing it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from llm_pretrain.cli.demo.command import run_command
from tests.launching import PATIENCE_SECONDS

LAUNCHER = """
import signal, sys, time
received = []
signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
print("step 1", flush=True)
while not received:
    time.sleep(0.01)
time.sleep(0.5)
print(f"Saved, after {len(received)} signal", flush=True)
sys.exit(15)
"""
DEMO = """
import sys
from llm_pretrain.cli.demo.command import run_command
from tests.launching import PATIENCE_SECONDS
sys.exit(run_command(["-c", sys.argv[1]]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to_group", [True, False])
def test_a_signal_waits_for_the_save(number: int, to_group: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DEMO, LAUNCHER],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        while demo.stdout.readline() != "step 1\n":
            assert demo.poll() is None
        (os.killpg if to_group else os.kill)(demo.pid, number)
        try:
            printed, errors = demo.communicate(timeout=PATIENCE_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(demo.pid, signal.SIGKILL)
    assert demo.returncode == 128 + number
    assert printed == "Saved, after 1 signal\n"
    assert "Traceback" not in errors


def test_a_command_that_ends_by_itself_gives_its_status() -> None:
    assert run_command(["-c", "exit(3)"]) == 3
