"""VisualDL: curves in a file of the run's directory, which `visualdl --logdir` shows."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from visualdl import LogWriter

from llm_pretrain.monitor.trackers.tracked_run import TrackedRun

SECONDS_BETWEEN_WRITES = 10


class VisualDLTracker:
    """Appends to the run's file: of several in a directory VisualDL shows but one."""

    def __init__(self, run: TrackedRun) -> None:
        run.directory.mkdir(parents=True, exist_ok=True)
        earlier = sorted(path.name for path in run.directory.glob("vdlrecords.*.log"))
        # It prints that a file which it is told to go on with is there.
        with contextlib.redirect_stdout(None):
            self._writer = LogWriter(
                logdir=str(run.directory),
                flush_secs=SECONDS_BETWEEN_WRITES,
                file_name=earlier[-1] if earlier and run.is_resumed else "",
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(tag=name, step=step, value=value)

    def hyper_parameters(self, values: Mapping[str, float | int | str]) -> None:
        # VisualDL shows them beside curves, which it wants to be told.
        self._writer.add_hparams(
            hparams_dict=dict(values), metrics_list=["train/loss", "eval/loss"]
        )

    def close(self) -> None:
        self._writer.close()
