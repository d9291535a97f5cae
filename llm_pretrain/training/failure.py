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
from llm_pretrain.machine.device import DeviceError
from llm_pretrain.machine.files import describe, is_fault
from llm_pretrain.monitor.alerts import Alerts
from llm_pretrain.ops import internals
from llm_pretrain.parallel.comm import topology
from llm_pretrain.parallel.comm.lost_peer import missing_peers, say_failing
from llm_pretrain.parallel.sharding.optimizer import NonFiniteGradientError
from llm_pretrain.preprocess import PreprocessError
from llm_pretrain.training.agreement import OperatorError
from llm_pretrain.training.saves import SavingError

USER_ERRORS = (
    ConfigError,
    DataError,
    DeviceError,
    OperatorError,
    PreprocessError,
    SavingError,
    NonFiniteGradientError,
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
        tell = alerts.failure if alerts and _is_news(error, alerts) else _tell_nobody
        if topology.current().world_size == 1:
            tell(_described(error))
            raise
        _report(error, tell)
        # The other ranks are gone or will be ended: destructors would wait for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _is_news(error: Exception, alerts: Alerts) -> bool:
    return alerts.has_started or not isinstance(error, USER_ERRORS)


def _tell_nobody(message: str) -> None:
    pass


def _described(error: Exception) -> str:
    if isinstance(error, USER_ERRORS) or is_fault(error):
        return f"error: {describe(error)}"
    return "".join(traceback.format_exception(error))


def _report(error: Exception, tell: Callable[[str], None]) -> None:
    rank = topology.current().rank
    own = _described(error)
    try:
        text, is_first = _first_failure(own, rank, waits=_is_about_communication(error))
    except Exception:  # the store went with rank 0, whose own output is on the console
        text, is_first = f"Rank 0 can't be reached. Rank {rank} failed:\n{own}{_missing()}", True
    print(text, file=sys.stderr, flush=True)
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


def _is_about_communication(error: Exception) -> bool:
    """Whether the error is what a rank sees when another one is gone."""
    text = str(error)
    return isinstance(error, RuntimeError | OSError | ValueError) and any(
        mark in text for mark in ("gloo", "NCCL", "xccl", "TCPStore", "tcp_", "Connection")
    )
