"""Checkpoints that a process of their own writes, from a copy of the state, while training goes on.

A save has the phases of `checkpoint.part`. Each rank's process does one after the other; the next
begins on all ranks when it has ended on all, which the ranks learn of as they train.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_pretrain.checkpoint import writer
from llm_pretrain.checkpoint.host_copy import CopyPlan, StateCopy
from llm_pretrain.checkpoint.part import CheckpointPart
from llm_pretrain.checkpoint.save import (
    FailedSaveError,
    SavedState,
    raise_first,
    written_of_all_stages,
)
from llm_pretrain.checkpoint.write_weights import WrittenTensor
from llm_pretrain.checkpoint.writer import to_message
from llm_pretrain.machine import environment_without_choices
from llm_pretrain.machine.files import describe
from llm_pretrain.parallel.comm import collectives


class BackgroundSave:
    """The saves of one rank, one after another; every rank has one, and calls it alike.

    Close it in the end: what is not published by then is given up.
    """

    def __init__(self, saved: SavedState, plan: CopyPlan) -> None:
        self.saved = saved
        self.plan = plan
        self.copy = StateCopy(saved, plan)
        self.part: CheckpointPart | None = None
        """Of the save that is under way."""
        self._sums: Sequence[int] | None = None
        """Of the bits of what was to be copied."""
        self._phase = ""
        self._process: WriterProcess | None = None
        self._answer: Future[dict[str, Any]] = Future()
        """To the last request."""

    def begin(self, part: CheckpointPart, sums: Sequence[int] | None = None) -> None:
        """Copy the state, and begin to write it as `part`. Training may go on, but before the state
        changes it calls `settle`.

        Args:
            sums: as `save_checkpoint` has them. The copy is compared with them.
        """
        assert self.part is None, "one after another"
        self.copy.begin()
        self.part, self._sums = part, sums
        if self._process is not None and self._process.has_ended():
            self._process.end()
            self._process = None
        if self._process is None:
            try:
                self._process = WriterProcess(self.copy.memory.descriptor)
            except OSError as error:
                self._phase, self._answer = "prepare", Future()
                self._answer.set_result({"problem": describe(error), "written": {}})
                return
        self._ask("prepare", part=to_message(part))

    def _ask(self, phase: str, **request: Any) -> None:
        assert self._process is not None
        self._phase = phase
        self._answer = self._process.answer({"phase": phase, **request})

    @property
    def is_busy(self) -> bool:
        """Whether this rank's process has not ended its phase."""
        return self.part is not None and not self._answer.done()

    def settle(self) -> None:
        """Return when the state is copied."""
        self.copy.finish()

    def advance(self) -> Path | None:
        """Begin the next phase; every rank calls it when no rank is busy.

        Returns:
            The checkpoint, if it is published now.

        Raises:
            FailedSaveError: on every rank alike; nothing is left of the checkpoint.
        """
        part = self.part
        assert part is not None
        self.settle()
        answer = self._answer.result()
        try:
            raise_first(collectives.gather_texts(answer["problem"]))
        except FailedSaveError:
            self.part = None
            part.give_up()
            raise
        if self._phase == "prepare":
            # None where another rank writes the same.
            copied = [entry for bucket in self.plan.buckets for entry in bucket.values()]
            self._ask(
                "write",
                copied=[
                    (asdict(entry), total)
                    for entry, total in zip(copied, self._sums or (), strict=False)
                ],
                shards=[asdict(entry) for entry in self.plan.shards(self.saved.ranges or ())],
                weights=[asdict(entry) for entry in self.plan.weights],
            )
        elif self._phase == "write":
            self._ask("weights")
        elif self._phase == "weights":
            written = {name: WrittenTensor(*entry) for name, entry in answer["written"].items()}
            self._ask("publish", written=written_of_all_stages(written, self.saved.topology))
        else:
            self.part = None
            return part.checkpoint
        return None

    def wait(self) -> Path:
        """Return when the checkpoint that is under way is published; every rank calls it.

        Raises:
            FailedSaveError: as `advance`.
        """
        while True:
            self._answer.result()
            collectives.barrier()
            published = self.advance()
            if published is not None:
                return published

    def close(self) -> None:
        if self._process is not None:
            self._process.end()
        self.copy.close()


class WriterProcess:
    """The process that writes (`checkpoint.writer`), as its rank sees it."""

    def __init__(self, descriptor: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", writer.__name__, str(descriptor), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(descriptor,),
            env=environment_without_choices(),
            text=True,
        )
        self._exchanging: threading.Thread | None = None

    def answer(self, request: Mapping[str, Any]) -> Future[dict[str, Any]]:
        """Send a request; its answer will be there."""
        answer: Future[dict[str, Any]] = Future()
        # Neither a pipe that is full nor one that is empty may hold up the training.
        arguments = json.dumps(request), answer
        self._exchanging = threading.Thread(target=self._exchange, args=arguments, daemon=True)
        self._exchanging.start()
        return answer

    def _exchange(self, request: str, answer: Future[dict[str, Any]]) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
            answer.set_result(json.loads(self._process.stdout.readline()))
        except (OSError, ValueError):  # ValueError: it ended in the middle of a line, or before
            status = self._process.wait()
            problem = f"the process that writes checkpoints has ended with status {status}"
            answer.set_result({"problem": problem, "written": {}})

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> None:
        """End the process at once, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        if self._exchanging is not None:
            self._exchanging.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what it has not read is lost
                pipe.close()
