"""The program of a rank's process, which its launcher starts: rank.py DESCRIPTORS ARGUMENTS…

It imports what training needs, waits for its place, and trains; when the epoch is over it begins
anew with its next place. A spare is the same process, whose first place comes late.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from llm_pretrain.checkpoint import host_memory
from llm_pretrain.machine import device
from llm_pretrain.parallel.comm import epochs, progress
from llm_pretrain.parallel.comm.epochs import EpochOver

_MOST_DESCRIPTORS = 256
"""Paddle keeps some sockets and a thread of every group for ever: a process that has more than so
many descriptors when an epoch ends loads the program anew."""

_DESCRIPTORS = "/proc/self/fd"


def main(arguments: Sequence[str]) -> NoReturn:
    """Train in one epoch after another."""
    descriptors, *arguments = arguments
    kept = [int(word) for word in descriptors.split(",")]
    control, places, *console = kept[:4]
    own = int(os.environ["PADDLE_LOCAL_SIZE"])
    host_memory.lend(kept[4 : 4 + own], kept[4 + own :])
    for descriptor in kept:
        os.set_inheritable(descriptor, False)
    seat = epochs.sit(socket.socket(fileno=control))
    progress.leave_places_in(os.fdopen(places, "r+b", buffering=0, closefd=False))
    from llm_pretrain.parallel.comm import topology
    from llm_pretrain.training.failure import is_about_communication
    from llm_pretrain.training.run import run  # imports Paddle

    seat.say(ready=True)
    is_reusable = True
    while is_reusable:
        _write_to(seat.take_place()["log"], console)
        host_memory.begin()
        try:
            with seat.in_epoch():
                status = run(arguments)
                seat.say(ended=status)
                sys.exit(status)
        except EpochOver:
            pass
        except Exception as error:
            if not epochs.is_over(by_lost_connection=is_about_communication(error)):
                epochs.failed("".join(traceback.format_exception(error)), is_final=False)
                raise
        # Outside of the handlers, which would keep the epoch's tensors.
        is_reusable = device.kind() == "cpu"
        if is_reusable:
            topology.leave()
            gc.collect()
            is_reusable = len(os.listdir(_DESCRIPTORS)) < _MOST_DESCRIPTORS
    # Accelerators' groups are not known to end in a living process.
    seat.say(loading=True)
    for name in os.listdir(_DESCRIPTORS):
        with contextlib.suppress(OSError):
            os.set_inheritable(int(name), int(name) in (0, 1, 2, *kept))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _write_to(log: str | None, console: Sequence[int]) -> None:
    """Send the output to the log, or to the console's descriptors."""
    if log is None:
        streams = list(console)
    else:
        opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        streams = [opened, opened]
    sys.stdout.flush()
    sys.stderr.flush()
    for stream, number in zip(streams, (1, 2), strict=True):
        os.dup2(stream, number)
    if log is not None:
        os.close(streams[0])


if __name__ == "__main__":
    main(sys.argv[1:])
