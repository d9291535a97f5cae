"""Programs that draw a run's curves, behind one interface; each is loaded only if it is asked for.

Metrics have the same names in all of them: train/loss, eval/loss, …; hyper-parameters those of the
configuration.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from llm_pretrain.monitor.metrics_log import Metrics
from llm_pretrain.monitor.trackers.tracked_run import TrackedRun


class Tracker(Protocol):
    """Keeps the curves of one run. What it raises ends the curves, not the run."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Finite numbers by name; steps may come again, after the run has gone back."""

    def hyper_parameters(self, values: Mapping[str, float | int | str]) -> None:
        """The configuration, once at each start."""

    def close(self) -> None:
        """The process has no more to tell; the run may go on in another."""


class _Program(NamedTuple):
    library: str
    """What is imported."""
    packages: str
    """What pip is asked for."""
    tracker: str
    """The class, in the module of the name."""


PROGRAMS = {
    "visualdl": _Program("visualdl", "visualdl", "VisualDLTracker"),
    "tensorboard": _Program("tensorboardX", "tensorboardX tensorboard", "TensorBoardTracker"),
    "wandb": _Program("wandb", "wandb", "WandbTracker"),
    "mlflow": _Program("mlflow", "mlflow", "MlflowTracker"),
    "swanlab": _Program("swanlab", "swanlab", "SwanLabTracker"),
}
"""By their names in `report_to`."""


def chosen(report_to: str | Sequence[str] | None) -> list[str]:
    """The programs that `report_to` names. None is VisualDL; "all" are those that are installed.

    Raises:
        ValueError: a name that is none of theirs.
    """
    if report_to is None:
        return ["visualdl"]
    names = report_to.replace(",", " ").split() if isinstance(report_to, str) else [*report_to]
    unknown = [name for name in names if name not in {*PROGRAMS, "all", "none"}]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: not among {', '.join(PROGRAMS)}, all, none")
    if "all" in names:
        return [name for name, program in PROGRAMS.items() if _is_installed(program.library)]
    return [name for name in PROGRAMS if name in names]


def _is_installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def open_tracker(name: str, run: TrackedRun) -> Tracker:
    """The tracker of one program, which goes on with the run's earlier curves.

    Raises:
        ImportError: it is not installed; the message says how it is.
        Exception: whatever the program raises where it can't write or isn't reached.
    """
    program = PROGRAMS[name]
    if not _is_installed(program.library):
        raise ImportError(f"{name} is not installed (pip install {program.packages})")
    module = importlib.import_module(f"{__name__}.{name}_tracker")
    tracker: Tracker = getattr(module, program.tracker)(run)
    return tracker


def scalars_of(prefix: str, metrics: Metrics) -> dict[str, float]:
    """The finite numbers of a step or an evaluation, by the names that curves have."""
    return {
        f"{prefix}/{name.removeprefix(prefix + '_')}": float(value)
        for name, value in metrics.items()
        if name != "global_step" and isinstance(value, int | float) and math.isfinite(value)
    }
