"""The stacks of a rank that stands still: its process writes them at a signal of its watch.

The process has a file without a name for them, and faulthandler writes there: Python's own code
would not be come to by a rank that is held in C++.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import BinaryIO

from llm_pretrain.machine.language import translated
from llm_pretrain.parallel.comm.places import state_of

WRITING_SECONDS = 1.0
"""What it takes to write a rank's stacks."""
_SIGNAL = signal.SIGUSR2


@cache
def stacks_file() -> BinaryIO:
    """The file to which this process writes its stacks at the signal of its watch."""
    file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (open for as long as the process)
    faulthandler.register(_SIGNAL, file=file, all_threads=True)
    return file


def leave_stacks(process: int, rank: str, descriptor: int, path: Path) -> None:
    """Have a process write its stacks, and keep them at `path`. One that is stopped goes on.

    Args:
        rank: whose process it is, in words.
        descriptor: of its `stacks_file`.
    """
    os.kill(process, _SIGNAL)
    if state_of(process) == "T":
        # It is named before it goes on, since it may fail at once at what has waited too long.
        said = translated(f"{rank} is stopped and goes on to leave its stacks")
        print(said, file=sys.stderr, flush=True)
        os.kill(process, signal.SIGCONT)
    time.sleep(WRITING_SECONDS)
    with contextlib.suppress(OSError):
        size = os.fstat(descriptor).st_size
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.pread(descriptor, size, 0))
