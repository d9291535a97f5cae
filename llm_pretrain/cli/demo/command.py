"""Commands that the demo runs: shown, stopped with it, and waited for."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import IO

from llm_pretrain import machine
from llm_pretrain.machine import SIGNAL_STATUS

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED = frozenset(SIGNAL_STATUS + number for number in _SIGNALS)
_POLL_S = 0.1
_LAST_LINES_S = 5.0
_SAME_SIGNAL_S = 1.0
"""Within this time a second signal is the first, by another way: `make` passes on what it gets."""


def run_command(*parts: Sequence[str], show: Callable[[str], None] | None = None) -> int:
    """Show a command and run it with this Python.

    The command has a session of its own, so that a signal reaches it once, from here. Paddle's
    launcher takes a second one as a wish to end within 10 s, whatever is being saved.

    Args:
        show: gets each line of its output; None leaves them as they come.

    Returns:
        Its exit status; 128 + the number of the signal that ended it.
    """
    words = [word for part in parts for word in part]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    environment = machine.environment_without_choices()
    environment.setdefault("PYTHONWARNINGS", "ignore:No ccache found")
    # Paddle's launcher stops at an empty list of GPUs; without the variable it finds none.
    if not environment.get("CUDA_VISIBLE_DEVICES", "unset"):
        del environment["CUDA_VISIBLE_DEVICES"]
    with _signals_noted() as received:
        process = subprocess.Popen(
            [sys.executable, *(["-u"] if show else []), *words],
            env=environment,
            start_new_session=True,
            stdout=subprocess.PIPE if show else None,
            text=True,
            errors="replace",
        )
        reader = threading.Thread(target=_read, args=(process.stdout, show), daemon=True)
        reader.start()
        passed_on = 0
        while process.poll() is None:
            if len(received) > passed_on:
                passed_on = len(received)
                process.terminate()
            time.sleep(_POLL_S)
        reader.join(_LAST_LINES_S)
    if process.returncode and received:
        return SIGNAL_STATUS + received[0]
    return process.returncode


def _read(lines: IO[str] | None, show: Callable[[str], None] | None) -> None:
    if lines is not None and show is not None:
        for line in lines:
            show(line.rstrip("\n"))


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """While the block runs, a signal that asks to stop is added to the list, and does no more."""
    received: list[int] = []
    latest = -_SAME_SIGNAL_S

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal latest
        if time.monotonic() - latest >= _SAME_SIGNAL_S:
            latest = time.monotonic()
            received.append(number)

    # nohup has SIGHUP ignored, a shell that runs a script SIGINT in its background.
    heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, note) for number in heard}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
