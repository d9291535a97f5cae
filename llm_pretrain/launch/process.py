"""A process of a node: what its launcher knows of it, and what to say of its end."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass, replace

from llm_pretrain.parallel.comm.channel import Channel
from llm_pretrain.parallel.comm.places import PLACE, Place, moved, told_by


@dataclass
class Process:
    """A process that is a rank, or waits to be one."""

    popen: subprocess.Popen[bytes]
    channel: Channel
    places: int
    """Descriptor of the memory in which it leaves where it is."""
    rank: int | None = None
    is_ready: bool = False
    joined: int = 0
    """The last epoch that it has come to."""
    told_at: float = 0.0
    ended: int | None = None
    """The status that it has said it ends with."""
    failure: str = ""
    is_superfluous: bool = False
    """It was a rank of a larger job, and is killed."""
    killed_at: str = ""
    """Where it was when this launcher killed it, in words."""

    def place(self) -> Place:
        """Where it is; it has been there at least since it was told to leave its epoch."""
        told = told_by(self.popen.pid, os.pread(self.places, PLACE.size, 0))
        return replace(moved(Place(), told), since=self.told_at)


def how_it_died(status: int) -> str:
    """The end of a process, by its exit status as `subprocess` gives it, for after its name."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
