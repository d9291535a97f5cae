"""The end of a job that has lost a rank: a time-out that names the rank, whatever the backend."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_pretrain.machine.launchers import hosts_of_ranks
from llm_pretrain.ops import internals
from llm_pretrain.parallel.comm import epochs, heartbeat, progress
from llm_pretrain.parallel.comm.stacks import WRITING_SECONDS, stacks_file

_KEY = "heartbeat"
_PARTING_SECONDS = 2.0
_watch: subprocess.Popen[str] | None = None


@contextmanager
def watched_peers(
    rank: int,
    world_size: int,
    timeout_seconds: float,
    stacks: Path,
    alert: dict[str, str] | None = None,
) -> Iterator[None]:
    """Within the block a peer that is lost ends this process, with a message that names it.

    Lost is a peer whose process has ended, other than by leaving its own block, or that has given
    no sign of life for nearly `timeout_seconds`. Where all stand still for so long, the one that
    the others wait for is named. Every rank of the job enters the block once.

    Args:
        stacks: the directory in which a job that stands still leaves where each rank was.
        alert: a program that rank 0's watch has tell of it, see `heartbeat.Settings`.
    """
    global _watch
    if world_size == 1:
        yield
        return
    epochs.at_end(abandon_watch)
    _watch = _start_watch(rank, timeout_seconds, stacks, alert)
    yield
    # Where the block raises, the watch goes on until the process ends and the peers learn of it.
    if _watch is not None:
        with contextlib.suppress(OSError), _watch:
            _ask("done")
    _watch = None


def abandon_watch() -> None:
    """End the watch: its peers are of the past, and their end is known.

    It parts from theirs with a word: who is late to leave is the launcher's to judge.
    """
    global _watch
    watch = _watch
    _say("over")
    _watch = None
    if watch is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            watch.wait(_PARTING_SECONDS)
        watch.kill()
        watch.wait()
        for stream in (watch.stdin, watch.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


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
    return _answer("missing?")


def stuck_peers() -> str:
    """The ranks that stand still while the others wait, in words; "" where none does.

    If there are any, the launcher is told, and the stacks of all ranks are written.
    """
    stuck = _answer("stuck?")
    if stuck:
        epochs.stuck(stuck)  # now: a rank that was stopped is continued to write its stacks
        time.sleep(2 * WRITING_SECONDS)
    return stuck


def _answer(question: str) -> str:
    if _watch is None or _watch.stdout is None:
        return ""
    try:
        _ask(question)
        return _watch.stdout.readline().strip()
    except OSError:  # the watch has ended
        return ""


def _start_watch(
    rank: int, timeout_seconds: float, stacks: Path, alert: dict[str, str] | None
) -> subprocess.Popen[str]:
    store = internals.job_store()
    token, port = secrets.token_hex(16), 0
    if rank != 0:
        token, _, number = store.get(_KEY).decode().partition(" ")
        port = int(number)
    descriptors = [progress.place_file().fileno(), stacks_file().fileno()]
    launcher = epochs.connection()
    if launcher is not None:
        descriptors.append(launcher)
    settings = {
        "rank": rank,
        "hosts": hosts_of_ranks(os.environ),
        "timeout_seconds": timeout_seconds,
        "token": token,
        "port": port,
        "alert": alert if rank == 0 else None,
        "place_file": descriptors[0],
        "stacks_file": descriptors[1],
        "stacks_directory": str(stacks),
        "launcher": launcher,
        "epoch": epochs.number(),
    }
    watch = subprocess.Popen(
        heartbeat.command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=descriptors,
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
