"""The first rank's own error on the console, not its neighbours' time-outs.

When one rank fails, the others fail too, a moment later, with errors about lost connections. Each
rank leaves its error in the job's store; a rank whose error is about communication looks there and
shows the first one. The first is also told to `alert_command` and `alert_url`.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llm_pretrain.config import ConfigError
from llm_pretrain.data import DataError
from llm_pretrain.data.preprocess import PreprocessError
from llm_pretrain.machine.device import DeviceError
from llm_pretrain.machine.files import describe, is_fault
from llm_pretrain.machine.terminal import say
from llm_pretrain.monitor.alerts import Alerts
from llm_pretrain.ops import internals
from llm_pretrain.parallel.comm import epochs, topology
from llm_pretrain.parallel.comm.epochs import EpochOver
from llm_pretrain.parallel.comm.lost_peer import missing_peers, say_failing, stuck_peers
from llm_pretrain.training.agreement import OperatorError
from llm_pretrain.training.integrity import IntegrityError
from llm_pretrain.training.saves import SavingError
from llm_pretrain.training.stability import UnstableRunError

USER_ERRORS = (
    ConfigError,
    DataError,
    DeviceError,
    OperatorError,
    PreprocessError,
    SavingError,
    UnstableRunError,
    IntegrityError,
)
"""Errors that the person who typed the config can mend: no traceback is needed."""
_PATIENCE_SECONDS = 3.0
_COUNT = "failure/count"


@contextmanager
def reported_failures(alerts: Alerts | None = None) -> Iterator[None]:
    """End the process with status 1 and the first failure's traceback.

    Args:
        alerts: gets the failure, unless it is one of a run that has not started and that the
            person who typed its config can mend.
    """
    try:
        yield
    except Exception as error:
        is_lost = is_about_communication(error)
        # Before the ranks form anew: nobody could tell who stood still any more.
        stuck = stuck_peers() if is_lost and not epochs.is_over() else ""
        if epochs.is_over(by_lost_connection=is_lost):
            raise EpochOver from None
        tell = alerts.failure if alerts and _is_news(error, alerts) else _tell_nobody
        if topology.current().world_size == 1:
            tell(_described(error))
            raise
        _report(error, tell, stuck)
        # The other ranks are gone or will be ended: destructors would wait for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _is_news(error: Exception, alerts: Alerts) -> bool:
    if epochs.number() and not _is_final(error):
        return False  # the launcher gives this rank's place to another process
    return alerts.has_started or not isinstance(error, USER_ERRORS)


def _is_final(error: Exception) -> bool:
    """Whether another process in this one's place would fail alike."""
    return isinstance(error, USER_ERRORS) or is_fault(error)


def _tell_nobody(message: str) -> None:
    pass


def _described(error: Exception) -> str:
    if _is_final(error):
        return f"error: {describe(error)}"
    return "".join(traceback.format_exception(error))


def _report(error: Exception, tell: Callable[[str], None], stuck: str) -> None:
    rank = topology.current().rank
    if stuck:
        text = f"the job stands still: {stuck}."
        epochs.failed(text, is_final=False)
        say(f"error: {text}", sys.stderr)
        # The store, which knows who was the first, may be what stands still.
        if rank == (1 if stuck.startswith("rank 0 ") else 0):
            say_failing()
            tell(text)
        return
    own = _described(error)
    epochs.failed(own, is_final=_is_final(error))
    try:
        text, is_first = _first_failure(own, rank, waits=is_about_communication(error))
    except Exception:  # the store went with rank 0, whose own output is on the console
        text, is_first = f"Rank 0 can't be reached. Rank {rank} failed:\n{own}{_missing()}", True
    say(text, sys.stderr)
    if is_first:
        say_failing()
        tell(text)


def _first_failure(own: str, rank: int, *, waits: bool) -> tuple[str, bool]:
    """What to show of this rank's failure, and whether it is the first of the job's."""
    store = internals.job_store()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while waits and store.add(_COUNT, 0) == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    if waits:
        own += _missing()
    number = store.add(_COUNT, 1)
    if number > 1 and waits:
        return store.get("failure/first").decode(), False
    if number == 1:
        store.set("failure/first", f"Rank {rank} failed first:\n{own}".encode())
    return f"Rank {rank} failed:\n{own}", number == 1


def _missing() -> str:
    missing = missing_peers()
    return f"error: not heard from {missing}\n" if missing else ""


def is_about_communication(error: Exception) -> bool:
    """Whether the error is what a rank sees when another one is gone."""
    text = str(error)
    return isinstance(error, RuntimeError | OSError | ValueError) and any(
        mark in text for mark in ("gloo", "NCCL", "xccl", "TCPStore", "tcp_", "Connection")
    )
