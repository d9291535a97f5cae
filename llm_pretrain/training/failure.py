"""The first rank's own error on the console, not its neighbours' time-outs.

When one rank fails, the others fail too, a moment later, with errors about lost connections. Each
rank leaves its error in the job's store; a rank whose error is about communication looks there and
shows the first one.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from llm_pretrain.config import ConfigError
from llm_pretrain.data import DataError
from llm_pretrain.machine.device import DeviceError
from llm_pretrain.machine.files import describe, is_fault
from llm_pretrain.ops import internals
from llm_pretrain.parallel.comm import epochs, topology
from llm_pretrain.parallel.comm.epochs import EpochOver
from llm_pretrain.parallel.comm.lost_peer import missing_peers
from llm_pretrain.parallel.sharding.optimizer import NonFiniteGradientError
from llm_pretrain.preprocess import PreprocessError
from llm_pretrain.training.agreement import OperatorError

USER_ERRORS = (
    ConfigError,
    DataError,
    DeviceError,
    OperatorError,
    PreprocessError,
    NonFiniteGradientError,
)
"""Errors that the person who typed the config can mend: no traceback is needed."""
_PATIENCE_SECONDS = 3.0
_COUNT = "failure/count"


@contextmanager
def reported_failures() -> Iterator[None]:
    """End the process with status 1 and the first failure's traceback."""
    try:
        yield
    except Exception as error:
        if epochs.is_over(by_lost_connection=is_about_communication(error)):
            raise EpochOver from None
        if topology.current().world_size == 1:
            raise
        _report(error)
        # The other ranks are gone or will be ended: destructors would wait for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _report(error: Exception) -> None:
    rank = topology.current().rank
    if isinstance(error, USER_ERRORS) or is_fault(error):
        own = f"error: {describe(error)}"
        epochs.failed(own, is_final=True)
    else:
        own = "".join(traceback.format_exception(error))
        epochs.failed(own, is_final=False)
    try:
        text = _first_failure(own, rank, waits=is_about_communication(error))
    except Exception:  # the store went with rank 0, whose own output is on the console
        text = f"Rank {rank} failed:\n{own}{_missing()}"
    print(text, file=sys.stderr, flush=True)


def _first_failure(own: str, rank: int, *, waits: bool) -> str:
    store = internals.job_store()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while waits and store.add(_COUNT, 0) == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    if waits:
        own += _missing()
    number = store.add(_COUNT, 1)
    if number > 1 and waits:
        return store.get("failure/first").decode()
    if number == 1:
        store.set("failure/first", f"Rank {rank} failed first:\n{own}".encode())
    return f"Rank {rank} failed:\n{own}"


def _missing() -> str:
    missing = missing_peers()
    return f"error: not heard from {missing}\n" if missing else ""


def is_about_communication(error: Exception) -> bool:
    """Whether the error is what a rank sees when another one is gone."""
    text = str(error)
    return isinstance(error, RuntimeError | OSError | ValueError) and any(
        mark in text for mark in ("gloo", "NCCL", "xccl", "TCPStore", "tcp_", "Connection")
    )
