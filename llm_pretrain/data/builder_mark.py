"""A sign that a process is building, which shows those who wait when it has died.

It is a file on which the builder holds a lock. The system lets go of the lock when the process
ends, however it ends; the file stays only if it had no time to remove it. Where a file system
has no locks, a builder always seems to be at work.
"""

from __future__ import annotations

import fcntl
from contextlib import suppress
from pathlib import Path
from typing import Literal

State = Literal["none", "at work", "gone"]


class BuilderMark:
    """Marks this process as building until the end of a `with` block. OSError if it can't be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        with suppress(OSError):
            # Shared: several processes may build the same, and then neither is in the other's way.
            fcntl.flock(self._file, fcntl.LOCK_SH)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._file.close()


def builder_state(path: Path) -> State:
    """Whether a builder is marked, and "gone" if it ended without removing its mark."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return "gone" if path.exists() else "none"
    except FileNotFoundError:
        return "none"
    except OSError:
        return "at work"
