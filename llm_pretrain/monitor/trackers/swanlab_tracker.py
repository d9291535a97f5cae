"""SwanLab; its own variables (SWANLAB_MODE=local, SWANLAB_PROJECT, …) say where to."""

from __future__ import annotations

import os
from collections.abc import Mapping

import swanlab

from llm_pretrain.monitor.trackers.tracked_run import PROJECT, TrackedRun


class SwanLabTracker:
    """An experiment, which goes on at a resume where SwanLab's server keeps it."""

    def __init__(self, run: TrackedRun) -> None:
        run.directory.mkdir(parents=True, exist_ok=True)
        self._run = swanlab.init(
            project=os.environ.get("SWANLAB_PROJECT", PROJECT),
            name=os.environ.get("SWANLAB_NAME", run.name),
            log_dir=str(run.directory),
            id=run.id,
            resume="allow",
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        swanlab.log(dict(values), step=step)

    def hyper_parameters(self, values: Mapping[str, float | int | str]) -> None:
        swanlab.config.update(dict(values))

    def close(self) -> None:
        swanlab.finish()
