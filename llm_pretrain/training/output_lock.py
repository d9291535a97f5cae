"""One job at a time in an `output_dir`: a lock that the system drops when its process ends."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_pretrain.config import ConfigError

_FILE = ".lock"
# `check` looks at the lock for a moment.
_PATIENCE_SECONDS = 1.0


def lock_problems(output_dir: str | Path) -> list[str]:
    """Whether another job has the folder, in a sentence; nothing is written."""
    try:
        with (Path(output_dir) / _FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return [_taken(output_dir)]
    except OSError:  # no lock yet, or a file system without locks
        pass
    return []


@contextmanager
def locked_output(output_dir: str | Path, *, is_first_of_job: bool) -> Iterator[None]:
    """Hold the folder within the block; the first process of each node calls it.

    Nodes may share the folder: there the first process of the job holds it for all.

    Raises:
        ConfigError: another job holds it.
        OSError: the lock's file can't be written.
    """
    path = Path(output_dir) / _FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        is_held = _acquire(file.fileno())
        if not is_held and is_first_of_job:
            raise ConfigError([_taken(output_dir)])
        if is_held:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield


def _acquire(descriptor: int) -> bool:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        except OSError:  # a file system without locks
            return True


def _taken(output_dir: str | Path) -> str:
    try:
        holder = (Path(output_dir) / _FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        holder = ""
    return (
        f"output_dir: {output_dir} is in use by another job ({holder or 'its number is unknown'}); "
        "wait until it has ended, end it, or choose another output_dir"
    )
