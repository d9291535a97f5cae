"""Epochs: the times between two failures of a job that `llm-pretrain launch` keeps alive.

When a rank dies, the launcher gives its place to another process and tells all that a new epoch has
begun. Here is the side of a rank: a thread hears the launcher, ends this process's connections to
the others, in which it may be waiting for the one that died, and interrupts what it does.
`EpochOver` is raised then; whoever runs the rank leaves its groups and begins anew in the same
process (`launch.rank`).

Without that launcher there is one epoch, number 0, which is never over.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llm_pretrain.machine.sockets import own_connections

LONGEST_WORD_SECONDS = 20.0
"""The launcher says within this time what follows on a rank's lost connection."""
_AGAIN_SECONDS = 1.0
_INTERRUPT = signal.SIGRTMIN + 3
"""Nobody else's: users and clusters have uses for SIGUSR1 and SIGUSR2."""


class EpochOver(BaseException):
    """The ranks form anew; nothing between the raise and the rank's program shall catch it."""


class Seat:
    """This process's connection to its launcher, and the place that it was given last."""

    def __init__(self, connection: socket.socket) -> None:
        self.epoch = 0
        self.began_at: int | None = None
        """The step at which the job's first epoch began to train; None before it did."""
        self.whole: int | None = None
        """The processes that the job was started with."""
        self.after = ""
        """What ended the epochs since training went on last, in sentences."""
        self._has_stepped = False
        self._connection = connection
        self._changed = threading.Condition()
        self._next: dict[str, Any] | None = None
        self._is_in_epoch = False
        self._is_ending = False
        signal.signal(_INTERRUPT, self._interrupt)
        threading.Thread(target=self._listen, daemon=True, name="launcher").start()

    @property
    def descriptor(self) -> int:
        """Of the connection."""
        return self._connection.fileno()

    def say(self, **words: Any) -> None:
        """Tell the launcher; where it is gone, this process is about to end."""
        with contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(words).encode() + b"\n")

    def take_place(self) -> dict[str, Any]:
        """Wait for the next epoch, take this process's place in it, and return what was said."""
        self._is_in_epoch = False
        with self._changed:
            while self._next is None:
                self._changed.wait()
            said, self._next = self._next, None
        self.epoch, self.began_at, self._has_stepped = said["epoch"], said["began_at"], False
        self.whole, self.after = said["whole"], said["after"]
        os.environ.update(said["environment"])
        self.say(joined=self.epoch)
        return said

    @contextmanager
    def in_epoch(self) -> Iterator[None]:
        """Within the block the end of the epoch raises `EpochOver`."""
        self._is_in_epoch = True
        try:
            self._interrupt()
            yield
        finally:
            self._is_in_epoch = False
            with self._changed:  # the connections that are opened from here on are not cut
                pass

    @property
    def is_over(self) -> bool:
        return self._next is not None

    def is_over_soon(self) -> bool:
        """Ask the launcher what follows on a lost connection: True for a new epoch."""
        self.say(lost=self.epoch)
        with self._changed:
            self._changed.wait_for(lambda: self.is_over or self._is_ending, LONGEST_WORD_SECONDS)
        return self.is_over

    def stepped(self, step: int) -> None:
        if not self._has_stepped:
            self._has_stepped = True
            self.say(stepped=step, epoch=self.epoch)

    def _listen(self) -> None:
        with contextlib.suppress(OSError), self._connection.makefile("rb") as lines:
            for line in lines:
                said = json.loads(line)
                with self._changed:
                    if "end" in said:
                        self._is_ending = True
                        self._break_off()
                    else:
                        self._next = said
                    self._changed.notify_all()
                self._end_epoch()
        os._exit(1)  # without its launcher a rank would hold the job's folder

    def _end_epoch(self) -> None:
        """Interrupt the main thread until it has heard: an exception may get lost in C++."""
        while True:
            with self._changed:
                if not self._is_in_epoch or self._next is None:
                    return
                self._break_off()
                signal.pthread_kill(threading.main_thread().ident or 0, _INTERRUPT)
            time.sleep(_AGAIN_SECONDS)

    def _break_off(self) -> None:
        if self._is_in_epoch:
            for action in _at_end:
                action()
            _cut_connections()

    def _interrupt(self, *_: object) -> None:
        if self._is_in_epoch and self.is_over:
            raise EpochOver


_seat: Seat | None = None
_at_end: list[Callable[[], None]] = []


def sit(connection: socket.socket) -> Seat:
    """Make this process a rank of the launcher at the other end of `connection`."""
    global _seat
    _seat = Seat(connection)
    return _seat


def at_end(action: Callable[[], None]) -> None:
    """Call `action`, in another thread, when an epoch is over."""
    if action not in _at_end:
        _at_end.append(action)


def number() -> int:
    """Of this epoch, from 1 on; 0 without the launcher."""
    return 0 if _seat is None else _seat.epoch


def connection() -> int | None:
    """Descriptor of the connection to the launcher, to which lines of JSON are written; None
    without it."""
    return None if _seat is None else _seat.descriptor


def whole() -> int | None:
    """The number of processes that the job was started with, which may be more than it has in this
    epoch; None without the launcher."""
    return None if _seat is None else _seat.whole


def began_at() -> int | None:
    """The step at which an earlier epoch began to train; None where there was none."""
    return None if _seat is None else _seat.began_at


def after() -> str:
    """What ended the epochs since training went on last; "" where none has ended."""
    return "" if _seat is None else _seat.after


def began(step: int) -> None:
    """Training begins at `step`: whatever this job saves from here on is its own."""
    if _seat is not None:
        _seat.say(began=step)


def stepped(step: int) -> None:
    """A step was made, the first one of which in an epoch ends a restart."""
    if _seat is not None:
        _seat.stepped(step)


def saved(step: int) -> None:
    """A checkpoint of `step` is published: a job that is to have more processes forms anew now."""
    if _seat is not None:
        _seat.say(saved=step, epoch=_seat.epoch)


def failed(text: str, *, is_final: bool) -> None:
    """This rank ends with an error, which restarts don't mend if `is_final`."""
    if _seat is not None:
        _seat.say(failure=text[-4000:], **({"ended": 1} if is_final else {}))


def stuck(who: str) -> None:
    """`who`, in words, stands still while the others wait: what a connection is lost by."""
    if _seat is not None:
        _seat.say(stuck=who, epoch=_seat.epoch)


def is_over(*, by_lost_connection: bool = False) -> bool:
    """Whether an error is that of an epoch's end.

    Args:
        by_lost_connection: the error says that another rank is gone; the launcher is asked then.
    """
    if _seat is None:
        return False
    return _seat.is_over or (by_lost_connection and _seat.is_over_soon())


def _cut_connections() -> None:
    """Shut down this process's TCP connections, so that whoever waits in one gets an error.

    Paddle's and Gloo's are those of C++ and can be reached by their descriptors alone.
    """
    for connection in own_connections():
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
