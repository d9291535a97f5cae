"""The end of a job that has lost a rank: a time-out that names the rank, whatever the backend."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from llm_pretrain.ops import internals
from llm_pretrain.parallel.comm import heartbeat

_KEY = "heartbeat"
_watch: subprocess.Popen[str] | None = None


@contextmanager
def watched_peers(
    rank: int, world_size: int, timeout_seconds: float, alert: dict[str, str] | None = None
) -> Iterator[None]:
    """Within the block a peer that is lost ends this process, with a message that names it.

    Lost is a peer whose process has ended, other than by leaving its own block, or that has given
    no sign of life for nearly `timeout_seconds`. Every rank of the job enters the block once.

    Args:
        alert: a program that rank 0's watch has tell of it, see `heartbeat.Settings`.
    """
    global _watch
    if world_size == 1:
        yield
        return
    _watch = _start_watch(rank, timeout_seconds, alert)
    yield
    # Where the block raises, the watch goes on until the process ends and the peers learn of it.
    with contextlib.suppress(OSError), _watch:
        _ask("done")
    _watch = None


def say_training() -> None:
    """Have the watch know that the run is under way: a loss from here on is told."""
    _say("training")


def say_failing() -> None:
    """Have the watches know that this rank fails by itself, and tells why."""
    _say("failing")


def _say(word: str) -> None:
    if _watch is not None:
        with contextlib.suppress(OSError):  # the watch has ended
            _ask(word)


def missing_peers() -> str:
    """The ranks that have not been heard from for a while, in words; "" where all is well."""
    if _watch is None or _watch.stdout is None:
        return ""
    try:
        _ask("missing?")
        return _watch.stdout.readline().strip()
    except OSError:  # the watch has ended
        return ""


def _start_watch(
    rank: int, timeout_seconds: float, alert: dict[str, str] | None
) -> subprocess.Popen[str]:
    store = internals.job_store()
    token, port = secrets.token_hex(16), 0
    if rank != 0:
        token, _, number = store.get(_KEY).decode().partition(" ")
        port = int(number)
    endpoints = os.environ["PADDLE_TRAINER_ENDPOINTS"].split(",")
    settings = {
        "rank": rank,
        "hosts": [endpoint.rpartition(":")[0] for endpoint in endpoints],
        "timeout_seconds": timeout_seconds,
        "token": token,
        "port": port,
        "alert": alert if rank == 0 else None,
    }
    watch = subprocess.Popen(
        [sys.executable, "-I", heartbeat.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watch.stdin is not None
    assert watch.stdout is not None
    watch.stdin.write(json.dumps(settings) + "\n")
    watch.stdin.flush()
    if rank == 0:
        store.set(_KEY, f"{token} {watch.stdout.readline().strip()}".encode())
    return watch


def _ask(word: str) -> None:
    assert _watch is not None
    assert _watch.stdin is not None
    _watch.stdin.write(f"{word}\n")
    _watch.stdin.flush()
