"""When checkpoints are saved, by whom, and what is done when one can't be."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from paddle import Tensor

from llm_pretrain.checkpoint import host_memory
from llm_pretrain.checkpoint.background import BackgroundSave
from llm_pretrain.checkpoint.directory import checkpoint_path, step_of
from llm_pretrain.checkpoint.host_copy import CopyPlan
from llm_pretrain.checkpoint.part import Retention
from llm_pretrain.checkpoint.save import FailedSaveError, SavedState, save_checkpoint, save_weights
from llm_pretrain.config import RunConfig
from llm_pretrain.machine import free_memory
from llm_pretrain.machine.device import to_device
from llm_pretrain.monitor.reporter import readable_size
from llm_pretrain.parallel.comm import collectives
from llm_pretrain.training.reports import Reports

_SMALL_BYTES = 32 << 20
"""What is smaller is written sooner than a process is started."""
_MOST_OF_FREE_MEMORY = 0.8
_FIRST_AUTO_STEPS = 10
"""Steps before the first save of `save_steps: auto`, which measures what one costs."""
_RETRY_SECONDS = 60.0


class SavingError(RuntimeError):
    """Checkpoints that could not be written, so many in a row that the run stops."""


class Saves:
    """The checkpoints of one run. Every rank has one, and all call it alike.

    Args:
        extras: what belongs beside all weights that are saved (a tokenizer's files).
    """

    def __init__(
        self, run: RunConfig, saved: SavedState, reports: Reports, extras: list[Path]
    ) -> None:
        self.training = run.training
        self.saved = saved
        self.reports = reports
        self.extras = extras
        self.last: Path | None = None
        """The newest checkpoint that is published, or that the run went on from."""
        self.went_on_from: dict[int, Path] = {}
        """What the run went on from, by its step; {} where it began at step 0."""
        self.must_retry = False
        """Whether the last save has failed."""
        self._failed_in_a_row = 0
        self._steps = 0
        """Of this process, until its first save."""
        self._is_due = False
        """By the clock, on all ranks alike."""
        self._is_decided = False
        self._background: BackgroundSave | None = None
        self._began = time.monotonic()
        self._blocked_seconds = 0.0
        """That training has waited for the save that is under way, or the last."""
        self._auto_seconds: float | None = None
        """Between two saves of `save_steps: auto`, when it is known."""

    def wish(self) -> Tensor:
        """What this rank has to say, float32 [2]: is a save due by the clock, and is it still
        writing? `heed` takes the largest of the ranks' numbers."""
        is_busy = self._background is not None and self._background.is_busy
        return to_device(np.array([self._is_due_by_clock(), is_busy], np.float32))

    def heed(self, wishes: Sequence[float]) -> None:
        """Go on with what every rank has ended; all call it at the same step, before its weights
        change."""
        self.settle()
        is_due, is_busy = wishes
        self._is_due = bool(is_due)
        self._steps += 1
        if self._is_under_way() and not is_busy:
            assert self._background is not None
            self._go_on(self._background.advance)

    def settle(self) -> None:
        """Return when weights and optimizer may change."""
        if self._background is not None:
            began = time.monotonic()
            with self.reports.spending("saving"):
                self._background.settle()
            self._blocked_seconds += time.monotonic() - began

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint of this step is to be saved."""
        training = self.training
        if training.save_strategy == "no":
            return False
        if step == training.max_steps or self._is_due:
            return True
        if training.save_strategy == "epoch":
            return False
        if training.keep_every and step % training.keep_every == 0:
            return True
        if training.save_steps == "auto":
            return self._auto_seconds is None and self._steps == _FIRST_AUTO_STEPS
        return step % training.save_steps == 0

    def _is_due_by_clock(self) -> bool:
        training = self.training
        if self.saved.topology.rank or training.save_strategy == "no" or self._is_under_way():
            return False
        seconds = time.monotonic() - self._began
        limits = [
            training.save_minutes and training.save_minutes * 60,
            self._auto_seconds,
            _RETRY_SECONDS if self.must_retry else None,
        ]
        return any(limit is not None and seconds >= limit for limit in limits)

    def _is_under_way(self) -> bool:
        return self._background is not None and self._background.part is not None

    def save(
        self,
        step: int,
        state: dict[str, Any],
        spared: Collection[int],
        *,
        is_needed: bool,
        sums: Sequence[int] | None,
    ) -> None:
        """Save a checkpoint, or begin to.

        Args:
            spared: steps whose checkpoints are kept besides.
            is_needed: whether this one may not be skipped: a signal ends the run with it, or it
                says that the run has gone back.
            sums: of the bits of what is saved, see `Integrity.sums_of_state`.

        Raises:
            SavingError: it fails, as have so many before it.
        """
        training = self.training
        if self._is_under_way():
            is_needed |= step == training.max_steps
            if training.while_saving == "skip" and not is_needed:
                self.reports.message(
                    f"Step {step} is not saved: the checkpoint before it is still being written "
                    "(while_saving: skip)."
                )
                return
            self.reports.message(
                f"Step {step} is saved when the checkpoint before it is written; training waits "
                "(while_saving: wait)."
            )
            self.finish()
        host_memory.saving()
        self._began = time.monotonic()
        self._blocked_seconds = 0.0
        self._is_due = False
        part = self.saved.part(
            checkpoint_path(training.output_dir, step),
            state,
            self._extras_that_are_there(),
            Retention(training.save_total_limit, training.keep_every, sorted(spared)),
        )
        self._decide()
        if self._background is None:

            def save() -> Path:
                save_checkpoint(self.saved, part, sums)
                return part.checkpoint

            self._go_on(save)
        else:
            with self.reports.spending("saving"):
                self._background.begin(part, sums)
            self._blocked_seconds += time.monotonic() - self._began

    def _decide(self) -> None:
        """Choose at the first save, when training has shown what memory it needs, whether others
        are written beside it."""
        if self._is_decided:
            return
        self._is_decided = True
        wanted = self.training.use_async_save
        if wanted is False:
            return
        plan = CopyPlan(self.saved)
        # What an earlier process in this one's place has left is there for this one's copy.
        wanted_bytes = plan.size * host_memory.copies()
        own = [socket.gethostname(), wanted_bytes, free_memory(), host_memory.taken_bytes()]
        nodes: dict[str, tuple[int, int, int]] = {}
        for host, size, free, taken in map(json.loads, collectives.gather_texts(json.dumps(own))):
            size_there, free_there, taken_there = nodes.get(host, (0, free, 0))
            nodes[host] = size_there + size, min(free_there, free), taken_there + taken
        needs = [(size, free + taken) for size, free, taken in nodes.values()]
        # The node that has the least room for what it needs.
        size, free = max(needs, key=lambda need: need[0] / max(need[1], 1))
        if wanted is None and max(size for size, _ in needs) < _SMALL_BYTES:
            return
        need = f"a copy of the state takes {readable_size(size)} of {readable_size(free)} free"
        if wanted is None and size > _MOST_OF_FREE_MEMORY * free:
            self.reports.message(
                f"Training waits while checkpoints are written: {need} memory. To train on all the "
                "same, set use_async_save."
            )
            return
        self.reports.message(f"Checkpoints are written beside the training: {need} memory.")
        self._background = BackgroundSave(self.saved, plan)

    def _go_on(self, action: Callable[[], Path | None]) -> None:
        """Do a part of a save, which publishes a checkpoint, or fails, or neither yet."""
        began = time.monotonic()
        try:
            with self.reports.spending("saving"):
                published = action()
        except FailedSaveError as error:
            self._note_failure(error)
            return
        self._blocked_seconds += time.monotonic() - began
        if published is None:
            return
        self.last = published
        self.must_retry = False
        self._failed_in_a_row = 0
        self.reports.saved(
            step_of(published), published, time.monotonic() - self._began, self._blocked_seconds
        )
        if self.training.save_steps == "auto":
            self._choose_interval()

    def _choose_interval(self) -> None:
        hours = self.training.mean_time_between_failures
        # Its own clock on every rank, of which rank 0's counts.
        seconds = best_interval(self._blocked_seconds, hours * 3600)
        if self._auto_seconds is None:
            self.reports.message(
                f"A checkpoint every {seconds / 60:.3g} minutes from here on: one costs "
                f"{self._blocked_seconds:.3g} s, and failures are {hours:g} hours apart "
                "(save_steps: auto)."
            )
        self._auto_seconds = seconds

    def _note_failure(self, error: FailedSaveError) -> None:
        self._failed_in_a_row += 1
        self.must_retry = True
        most = self.training.max_failed_saves
        newest = f"the newest checkpoint is {self.last}" if self.last else "there is no checkpoint"
        if self._failed_in_a_row >= most:
            raise SavingError(
                f"Checkpoints could not be saved {most} times in a row (max_failed_saves), so the "
                f"run stops; {newest}. {error}"
            )
        self.reports.event(
            "failed_save",
            f"warning: A checkpoint could not be saved (failure {self._failed_in_a_row} of at most "
            f"{most} in a row). Training goes on and tries again; {newest}. {error}",
            failures_in_a_row=self._failed_in_a_row,
        )

    def finish(self) -> None:
        """Return when what is under way is published, or has failed."""
        if self._is_under_way():
            assert self._background is not None
            self._go_on(self._background.wait)

    def save_weights(self) -> None:
        """Write the final weights to `output_dir`, in Hugging Face's format."""
        save_weights(self.saved, Path(self.training.output_dir), self._extras_that_are_there())

    def close(self) -> None:
        """Give up what is under way."""
        if self._background is not None:
            self._background.close()
            self._background = None

    def _extras_that_are_there(self) -> list[Path]:
        """What belongs beside the weights; what has vanished is said once and left out: without it
        they are worth as much."""
        there = [path for path in self.extras if path.exists()]
        for path in set(self.extras) - set(there):
            self.reports.message(f"warning: {path} has vanished: what is saved goes without it.")
        self.extras = there
        return there


def best_interval(cost_seconds: float, failures_apart_seconds: float) -> float:
    """Seconds between two saves that lose the least time: √(2 · cost · time between failures).

    J. W. Young (1974), "A first order approximation to the optimum checkpoint interval": a share
    cost / interval of the time is spent on saving, and on average half an interval is repeated
    after each failure.
    """
    return math.sqrt(2.0 * cost_seconds * failures_apart_seconds)
