"""MLflow; its own variables (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME) say where to."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from llm_pretrain.monitor.trackers.tracked_run import PROJECT, TrackedRun

_NAME = "mlflow"
_MOST_PARAMETERS = 100
"""Of one request to MLflow."""
_LONGEST_VALUE = 6000


class MlflowTracker:
    """A run of the experiment, opened again at a resume."""

    def __init__(self, run: TrackedRun) -> None:
        self._client = MlflowClient()
        known = run.known_as(_NAME)
        if known is not None:
            try:
                self._client.update_run(known, status="RUNNING")
            except MlflowException:  # it was of another server
                known = None
        if known is None:
            made = self._client.create_run(self._experiment(), run_name=run.name)
            known = str(made.info.run_id)
            run.remember(_NAME, known)
        self._id = known

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def hyper_parameters(self, values: Mapping[str, float | int | str]) -> None:
        # MLflow refuses to change one: those of the first start stay.
        known = self._client.get_run(self._id).data.params
        new = [
            Param(name, str(value)[:_LONGEST_VALUE])
            for name, value in values.items()
            if name not in known
        ]
        for begin in range(0, len(new), _MOST_PARAMETERS):
            self._client.log_batch(self._id, params=new[begin : begin + _MOST_PARAMETERS])

    def close(self) -> None:
        self._client.set_terminated(self._id)
