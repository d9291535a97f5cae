"""Weights & Biases; its own variables (WANDB_PROJECT, WANDB_MODE=offline, …) say where to."""

from __future__ import annotations

import os
from collections.abc import Mapping

import wandb

from llm_pretrain.monitor.trackers.tracked_run import PROJECT, TrackedRun

_STEP = "global_step"
_PATIENCE_SECONDS = 60.0


class WandbTracker:
    """A run whose curves have the step as abscissa: it may come again, which W&B's own may not."""

    def __init__(self, run: TrackedRun) -> None:
        run.directory.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", run.name),
            id=run.id,
            resume="allow",
            dir=str(run.directory),
            # The console is the launcher's, and nobody may be asked for a key.
            settings=wandb.Settings(
                console="off", init_timeout=_PATIENCE_SECONDS, silent=True, login_timeout=1
            ),
        )
        self._run.define_metric(_STEP)
        self._run.define_metric("*", step_metric=_STEP)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({_STEP: step, **values})

    def hyper_parameters(self, values: Mapping[str, float | int | str]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def close(self) -> None:
        self._run.finish()
